"""Schedules by name: the rate at every step, and what is refused."""

from __future__ import annotations

import pytest
import torch

from layerpace.lab.errors import UsageError
from layerpace.lab.methods import parse_method
from layerpace.lab.run_settings import check
from layerpace.lab.schedule import Schedule, scheduler


def rates(name: str, steps: int, warmup: int = 0) -> list[float]:
    """The rate of each step, and the one after the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    made = scheduler(name, optimizer, steps, warmup)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made is not None:
            made.step()
    return found


def test_drops_come_at_their_shares_of_the_steps() -> None:
    expected = [0.2 ** sum(t >= drop for drop in (80, 90, 97)) for t in range(101)]
    assert rates("steps:0.2@0.8/0.9/0.97", 100) == pytest.approx(expected, rel=1e-12)


def test_drops_are_shares_of_what_the_warm_up_leaves() -> None:
    assert rates("steps:0.1@0.5", 8, warmup=4) == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1, 1, 0.1, 0.1, 0.1])


def test_drops_that_fall_on_one_step_come_together_and_none_before_the_first_step() -> None:
    assert rates("steps:0.5@0.1/0.45/0.5", 4) == pytest.approx([1, 0.5, 0.125, 0.125, 0.125])


def test_a_line_with_a_slope_is_equation_10() -> None:
    assert rates("linear:0.1", 12) == pytest.approx([max(0.01, 1 - t * 0.1) for t in range(13)])
    assert rates("linear:0.25:0.3", 4) == pytest.approx([1, 0.75, 0.5, 0.3, 0.3])
    assert rates("linear:0.1", 12) != pytest.approx(rates("linear", 12))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step", "choose from constant, linear, cosine, linear:SLOPE"),
        ("cosine:1", "choose from constant"),
        ("", "choose from constant"),
        (3, "choose from constant"),
        ("linear:", "'' is not a number"),
        ("linear:fast", "must be linear:SLOPE or linear:SLOPE:FLOOR; 'fast' is not a number"),
        ("linear:1.5", r"must be linear:SLOPE or linear:SLOPE:FLOOR, both in \[0, 1\]"),
        ("linear:nan", r"both in \[0, 1\]"),
        ("linear:0.1:-1", r"both in \[0, 1\]"),
        ("linear:0.1:0.1:0.1", "must be linear:SLOPE or linear:SLOPE:FLOOR"),
        ("steps:0.2", "'' is not a number"),
        ("steps:0@0.5", r"the factor must be in \(0, 1\], got 0"),
        ("steps:nan@0.5", r"the factor must be in \(0, 1\], got nan"),
        ("steps:0.2@80/90", r"shares of the steps must be in \(0, 1\) and rise, got 80/90"),
        ("steps:0.2@0.9/0.8", "and rise, got 0.9/0.8"),
        ("steps:0.2@0.8/0.8", "and rise"),
        ("steps:0.2@nan", r"must be in \(0, 1\)"),
        ("steps:0.2@0.8/", "'' is not a number"),
    ],
)
def test_what_is_no_schedule_is_refused_early(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Schedule.of(text)
    with pytest.raises(UsageError, match=complaint) as error:
        check({"schedule": text})
    assert str(error.value).startswith(f"--schedule {text}: ")
    if isinstance(text, str) and text:
        with pytest.raises(UsageError, match=complaint):
            parse_method(f"sgd:schedule={text}")


def test_a_method_has_such_a_schedule_as_an_option() -> None:
    method = parse_method("layca:schedule=steps:0.2@0.8/0.9/0.97,lr=0.1,alpha=-0.6")
    assert (method.schedule, method.rates, dict(method.options)) == (
        "steps:0.2@0.8/0.9/0.97", (0.1,), {"layers.alpha": -0.6},
    )  # fmt: skip
