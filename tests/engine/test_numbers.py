"""Every option that takes a number takes what Python and numpy call one, and keeps Python's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods import Problem, assert_same, save_and_open

import layerpace as lp
from layerpace.engine.common import checks

# Each of them writes 1/4, 3/4 or 1 exactly.
KINDS: dict[str, Callable[[float], Any]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "longdouble": np.longdouble,
    "0-d array": np.array,
    "fraction": Fraction,
    "decimal": Decimal,
    "tensor": torch.tensor,
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

# Options with values that every kind of number can write; a list is tried item by item.
OPTIONS: dict[str, Any] = {
    "lr": 0.25, "weight_decay": 0.25, "momentum": 0.75, "dampening": 0.25, "min_rms": 0.25, "max_grad_norm": 0.75,
    "betas": (0.5, 0.75), "eps": 0.25, "trust_clip": (0.25, 0.75), "trust_coefficient": 0.25, "zero_ratio": 1.0,
}  # fmt: skip
METHODS: dict[str, tuple[Callable[..., lp.Layerwise], tuple[str, ...]]] = {
    "LARS": (
        lp.LARS,
        ("lr", "weight_decay", "momentum", "dampening", "min_rms", "max_grad_norm", "trust_coefficient", "zero_ratio"),
    ),
    "LAMB": (lp.LAMB, ("lr", "weight_decay", "betas", "eps", "trust_clip", "max_grad_norm", "zero_ratio")),
    "PercentDelta": (lp.PercentDelta, ("lr", "weight_decay", "momentum", "dampening", "eps")),
    "Layca": (lp.Layca, ("lr", "weight_decay", "momentum")),
}


def written(kind: Callable[[float], Any], value: Any) -> Any:
    return tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)


def is_own(value: Any) -> bool:
    """Whether nothing but Python's own numbers is in it."""
    if isinstance(value, (tuple, list)):
        return all(map(is_own, value))
    return type(value) in (bool, int, float, str, type(None), torch.Tensor)


@kinds
def test_options_of_the_methods_take_it_as_the_number(kind: Callable[[float], Any]) -> None:
    for make, names in METHODS.values():
        options = {name: OPTIONS[name] for name in names}
        problem, expected = Problem(), Problem()
        optimizer = make(problem.params, **{name: written(kind, value) for name, value in options.items()})
        twin = make(expected.params, **options)
        problem.train(optimizer, 2)
        expected.train(twin, 2)
        assert_same(problem.weights(), expected.weights(), str(make))
        assert_same(save_and_open(optimizer.state_dict())["state"], twin.state_dict()["state"])
        for part in (optimizer.rule, optimizer._settings, optimizer.direction):
            assert all(is_own(getattr(part, f.name)) for f in fields(part) if f.name != "rule"), part


@kinds
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_groups_take_it_at_construction_and_from_a_scheduler(kind: Callable[[float], Any], backend: str) -> None:
    changes = {"lr": 0.5, "lr_multiplier": 0.5, "weight_decay": 0.25, "betas": (0.25, 0.5), "eps": 0.5, "momentum": 0.5}
    first = {key: value for key, value in changes.items() if key != "momentum"}
    problem, expected = Problem(), Problem()
    optimizer = lp.LAMB(
        [{"params": problem.params, **{k: written(kind, v) for k, v in first.items()}}], backend=backend
    )
    twin = lp.LAMB([{"params": expected.params, **first}], backend=backend)
    for step in range(4):
        if step == 2:
            for key, value in changes.items():
                later = tuple(v / 2 for v in value) if isinstance(value, tuple) else value / 2
                optimizer.param_groups[0][key], twin.param_groups[0][key] = written(kind, later), later
        problem.train(optimizer, 1, first=step)
        expected.train(twin, 1, first=step)
    assert_same(problem.weights(), expected.weights())
    loaded = lp.LAMB(Problem().params)
    loaded.load_state_dict(save_and_open(optimizer.state_dict()))
    assert all(is_own(value) for key, value in loaded.param_groups[0].items() if key != "params")


@kinds
def test_directions_rules_and_clips_take_it(kind: Callable[[float], Any]) -> None:
    parts: list[type[Any]] = [*lp.directions.ALL, *lp.rules.ALL, lp.rules.Bounds, lp.rules.RunningBounds]
    parts += [lp.rules.TighteningBounds, lp.rules.FallingBound]
    tried = 0
    for part in parts:
        defaults = part()
        for field in fields(part):
            value = getattr(defaults, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float, tuple)):
                continue
            near = (0.5, 0.75) if isinstance(value, tuple) else 0.5 if value < 1 else float(math.ceil(value))
            given = part(**{field.name: written(kind, near)})
            assert given == part(**{field.name: near}), (part, field.name)
            assert is_own(getattr(given, field.name)), (part, field.name)
            tried += 1
    assert tried > 30


def test_flags_are_bools_whoever_says_them() -> None:
    for yes in (np.True_, 1, np.array(True)):
        direction = lp.directions.Adam(amsgrad=yes, bias_correction=yes, grad_averaging=yes, eps_inside_sqrt=yes)
        assert direction == lp.directions.Adam(amsgrad=True, eps_inside_sqrt=True)
        assert is_own([getattr(direction, f.name) for f in fields(direction)])
        assert lp.directions.RMSProp(centered=yes).state_names() == ("square_avg", "grad_avg")
        optimizer = lp.LARS(Problem().params, lr=0.1, nesterov=yes, maximize=yes, lr_in_velocity=yes, capturable=yes)
        assert optimizer.param_groups[0]["nesterov"] in (True, 1)
    for no in ("false", None, [True], 2, torch.tensor([True, False])):
        with pytest.raises((TypeError, ValueError), match="nesterov must be"):
            lp.LARS(Problem().params, lr=0.1, nesterov=no)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bias_correction must be True, False or 'after', got 'before'"):
        lp.LAMB(Problem().params, bias_correction="before")  # type: ignore[arg-type]


def test_schedules_leave_files_that_open() -> None:
    problem, expected = Problem(), Problem()
    optimizer, twin = lp.LARS(problem.params, lr=1.0), lp.LARS(expected.params, lr=1.0)
    one = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: np.cos(0.25 * t))
    two = torch.optim.lr_scheduler.LambdaLR(twin, lambda t: math.cos(0.25 * t))
    for step in range(4):
        problem.train(optimizer, 1, first=step)
        expected.train(twin, 1, first=step)
        one.step()
        two.step()
    assert_same(save_and_open(optimizer.state_dict()), twin.state_dict())
    for make in (
        lambda o, x, n: lp.schedules.linear_decay(o, slope=x(0.25), floor=x(0.25)),
        lambda o, x, n: lp.schedules.warmup(o, n(3), start=x(0.25)),
        lambda o, x, n: lp.schedules.polynomial_decay(o, n(4), power=x(2.0), floor=x(0.25), warmup_steps=n(1)),
        lambda o, x, n: lp.schedules.step_drops(o, at=[n(2)], factor=x(0.5)),
    ):
        rates = []
        for number, whole in ((np.float32, np.int64), (np.array, np.array), (float, int)):
            optimizer = lp.LAMB(Problem().params, lr=0.5)
            schedule = make(optimizer, number, whole)
            rates.append([schedule.get_last_lr()[0] for _ in range(5) if optimizer.step() or schedule.step() or True])
            save_and_open([optimizer.state_dict(), schedule.state_dict()])
        assert rates[0] == rates[1] == rates[2]


def test_layers_and_monitors_take_them(tmp_path: Path) -> None:
    w = torch.randn(4, 3).requires_grad_()
    for parts in (np.int64(2), np.array(2), np.array([2, 2]), [np.int32(2), 2]):
        optimizer = lp.LAMB([("w", w)], segments={"w": parts}, exclude=np.False_)
        assert optimizer.layers[w].sizes == (2, 2)
        assert not optimizer.layers[w].excluded
    with pytest.raises(ValueError, match=r"number of equal parts, sizes.*got 1\.5"):
        lp.LAMB([("w", w)], segments={"w": 1.5})
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    assert is_own([g["lr_multiplier"] for g in lp.layers.prioritize(net, np.float32(-0.5))])
    adam = torch.optim.Adam(net.parameters(), lr=0.1)
    settings = {"lr": np.float32(0.5), "seeds": [np.int64(3)], "grid": {"a": np.float64(0.25)}}
    monitor = lp.Monitor(
        net,
        adam,
        np.int64(2),
        out=tmp_path / "run",
        rotation_every=np.array(4),
        max_records=np.int32(9),
        settings=settings,
    )
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    monitor.log({"loss": Fraction(1, 2), "other": Decimal("0.5"), "third": np.float32(0.5)}, step=np.int64(1))
    monitor.close()
    read = lp.monitors.load(tmp_path / "run")
    run = read[0] if isinstance(read, list) else read
    assert [run.settings[key] for key in settings] == [0.5, [3], {"a": 0.25}]
    assert [run.scalars[name].values for name in ("loss", "other", "third")] == [[0.5]] * 3


@pytest.mark.parametrize(
    "bad", [1j, np.complex64(1), "0.1", b"1", None, [0.1], np.array([0.1]), np.str_("0.1"), torch.tensor(1j)], ids=repr
)
def test_what_is_no_number_is_said_so(bad: Any) -> None:
    for make, key in ((lp.LARS, "lr"), (lp.LARS, "weight_decay"), (lp.LAMB, "eps"), (lp.LARS, "min_rms")):
        with pytest.raises(TypeError, match=f"{key} must be a number, got"):
            make(Problem().params, **{"lr": 0.1, key: bad})


@pytest.mark.parametrize("far", [10**400, Fraction(10**400), Decimal("1e400"), Decimal("sNaN"), np.float64("nan")])
def test_what_no_float_holds_is_out_of_range(far: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="weight_decay must be"):
        lp.LARS(Problem().params, lr=0.1, weight_decay=far)


def test_tensors_of_several_elements_are_refused() -> None:
    several = torch.tensor([0.1, 0.2])
    for key in ("lr", "weight_decay", "momentum", "min_rms", "max_grad_norm", "lr_multiplier"):
        with pytest.raises(ValueError, match=rf"{key} must be a number or a tensor with one element, got shape \(2,\)"):
            lp.LARS([{"params": Problem().params, **({key: several} if key == "lr_multiplier" else {})}],
                    **{"lr": 0.1, **({} if key == "lr_multiplier" else {key: several})})  # fmt: skip
    with pytest.raises(ValueError, match=r"betas\[1\] must be a number or a tensor with one element"):
        lp.LAMB(Problem().params, betas=(0.9, several))  # type: ignore[arg-type]
    # set later: nothing has moved
    problem = Problem()
    optimizer = lp.LAMB(problem.params)
    problem.train(optimizer, 1)
    before, optimizer.param_groups[0]["lr"] = problem.weights(), several
    with pytest.raises(ValueError, match=r"lr must be a number .*shape \(2,\) \(parameter group 0\)"):
        problem.train(optimizer, 1)
    assert_same(problem.weights(), before)


def test_only_a_rate_may_live_on_another_device() -> None:
    far = torch.tensor(0.5, device="meta")
    for options in ({"weight_decay": far}, {"betas": (far, 0.9)}, {"eps": far}, {"max_grad_norm": far}):
        with pytest.raises(ValueError, match=r"must be a number or a tensor on the CPU, got a tensor on meta"):
            lp.LAMB(Problem().params, **options)


@pytest.mark.parametrize("clip", [(1.0, None), (None, 1.0), ("a", 1.0), (1j, 2.0)])
def test_bounds_of_a_clip_that_are_no_numbers(clip: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"trust_clip's (lower|upper) bound must be a number, got"):
        lp.LAMB(Problem().params, trust_clip=clip)
    assert lp.LAMB(Problem().params, trust_clip=(1.0, math.inf)).rule.clip == (1.0, math.inf)  # type: ignore[attr-defined]


def test_plain_leaves_the_rest_alone() -> None:
    class Odd:
        pass

    odd, array = Odd(), np.ones(3)
    for value in (odd, array, "text", None, {"a": 1}, range(3)):
        assert checks.plain(value) is value
    assert [type(checks.plain(x)) for x in (np.int8(3), np.bool_(True), np.uint64(3), True, 3)] == [
        int,
        bool,
        int,
        bool,
        int,
    ]
