"""Clip rules that remember, and the rule that limits norms: laws, memory, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_same, save_and_open, snapshot
from torch import Tensor

import layerpace as lp
from layerpace.engine.numerics.columns import Table

R = lp.rules
# Of a few steps; each binds in them.
REMEMBERING: dict[str, R.Rule] = {
    "running": R.TrustRatio(clip=R.RunningBounds(warmup=2, start=0.5)),
    "two-sided": R.TrustRatio(clip=R.RunningBounds(0.5, 0.5, 1, two_sided=True)),
    "tightening": R.TrustRatio(clip=R.TighteningBounds(0.5, 0.5)),
    "falling": R.TrustRatio(clip=R.FallingBound(2.0, 0.1, 5)),
    "limited norm": R.LimitedNorm(),
}
remembering = pytest.mark.parametrize("rule", REMEMBERING.values(), ids=REMEMBERING)
backends = pytest.mark.parametrize("backend", ["reference", "auto"])


def facts(count: int, device: str = "cpu", **changes: Any) -> R.Layers:
    """Layers with 10 entries and lr = 0.1."""
    ones = torch.ones(count, dtype=torch.float64, device=device)
    return R.Layers(**{"n": 10 * ones, "lr": 0.1 * ones, "weight_decay": 0 * ones, "min_rms": 1e-3, "decays": False,
                       "undecayed": ones > 0, **changes})  # fmt: skip


def clip_all(clip: R.ClipRule, ratios: list[float]) -> list[float]:
    """The ratios of one layer, step after step."""
    memory = {name: torch.zeros(1, dtype=torch.float64) for name in clip.state_names}
    found = []
    for ratio in ratios:
        clipped, memory = clip(torch.tensor([ratio], dtype=torch.float64), facts(1), memory)
        assert set(memory) == set(clip.state_names)
        found.append(float(clipped))
    return found


def trained(rule: R.Rule, steps: int = 6, backend: str = "auto", **options: Any) -> tuple[Problem, lp.Layerwise]:
    problem = Problem()
    # Up hill, norms grow, and their limit binds; down hill they shrink.
    options = {"lr": 0.1, "direction": "adam", "maximize": isinstance(rule, R.LimitedNorm), **options}
    optimizer = lp.Layerwise(problem.named, rule=rule, backend=backend, **options)
    problem.train(optimizer, steps)
    return problem, optimizer


# The bounds


def test_running_bounds_are_those_of_the_steps_before() -> None:
    """m = 2, s = 1 of the ratios 1 and 3 where all count alike; decay next to 1."""
    clip = R.RunningBounds(decay=1 - 1e-9, warmup=2, start=math.inf)
    assert clip_all(clip, [1.0, 3.0, 100.0]) == pytest.approx([1, 3, 3], abs=1e-7)
    assert clip_all(clip, [1.0, 3.0, 0.01]) == [1, 3, 0.01]
    both = R.RunningBounds(0.5, decay=1 - 1e-9, warmup=2, start=math.inf, two_sided=True)
    assert clip_all(both, [1.0, 3.0, 0.01]) == pytest.approx([1, 3, 1.5], abs=1e-7)
    assert clip_all(R.RunningBounds(9.0, 1 - 1e-9, 2, math.inf, two_sided=True), [1.0, 3.0, 0.0])[-1] == 0


def test_running_bounds_start_as_a_fixed_bound() -> None:
    ratios = [5.0, 0.2, 7.0, 9.0]
    assert clip_all(R.RunningBounds(warmup=3, start=1.0), ratios)[:3] == [1.0, 0.2, 1.0]
    assert clip_all(R.RunningBounds(warmup=3, start=1.0), ratios)[3] > 1


def test_without_deviations_and_past_a_ratio_never_rises() -> None:
    clip = R.RunningBounds(deviations=0, decay=0, warmup=1, start=math.inf)
    assert clip_all(clip, [2.0, 3.0, 5.0, 1.0, 4.0]) == [2, 2, 3, 1, 1]


def test_an_equal_ratio_is_left_alone() -> None:
    assert clip_all(R.RunningBounds(two_sided=True, start=9.0), [0.3] * 50) == pytest.approx([0.3] * 50, rel=1e-14)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_ratios_that_are_no_numbers_are_not_counted(bad: float) -> None:
    clip = R.RunningBounds(warmup=2, start=math.inf)
    with_bad = clip_all(clip, [1.0, bad, 3.0, 2.5, 100.0])
    assert [x for k, x in enumerate(with_bad) if k != 1] == clip_all(clip, [1.0, 3.0, 2.5, 100.0])
    assert math.isnan(bad) == math.isnan(with_bad[1])


def test_outliers_of_any_size_leave_numbers() -> None:
    clip = R.RunningBounds(warmup=1)
    assert all(math.isfinite(x) for x in clip_all(clip, [1e-300, 1e300, 1.0, 1e300]))
    assert 1e199 < clip_all(clip, [1.0, 1e200, 1e300])[-1] < 1e201


def test_tightening_bounds() -> None:
    clip = R.TighteningBounds(final=2.0, gamma=0.5)
    high, low = clip_all(clip, [1e9] * 4), clip_all(clip, [0.0] * 4)
    assert high == pytest.approx([6, 4, 10 / 3, 3])
    assert low == pytest.approx([2 / 3, 1, 1.2, 4 / 3])
    assert clip_all(R.TighteningBounds(2.0, gamma=1e12), [0.0, 9.0]) == pytest.approx([2, 2])


def test_falling_bound() -> None:
    assert clip_all(R.FallingBound(8.0, 1.0, 3), [9.0] * 5) == pytest.approx([8, 4, 2, 1, 1])
    assert clip_all(R.FallingBound(8.0, 2.0, 3, "linear"), [9.0] * 5) == pytest.approx([8, 6, 4, 2, 2])
    assert clip_all(R.FallingBound(8.0, 1.0, 3), [0.5] * 5) == [0.5] * 5


@pytest.mark.parametrize("course", ["geometric", "linear"])
def test_once_constant_a_falling_bound_is_a_fixed_one(course: Any) -> None:
    fallen, method = trained(R.TrustRatio(clip=R.FallingBound(7.0, 0.3, 2, course)), 3, "reference")
    twin = copy.deepcopy(fallen)
    fixed = R.TrustRatio(clip=0.3)
    other = lp.Layerwise(twin.named, direction="adam", rule=fixed, lr=0.1, backend="reference")
    other.load_state_dict(method.state_dict())
    fallen.train(method, 5, first=3)
    twin.train(other, 5, first=3)
    assert_same(fallen.weights(), twin.weights())


def test_bounds_that_bind_nowhere_change_nothing() -> None:
    free, _ = trained(R.TrustRatio(), backend="reference")
    for clip in (
        R.RunningBounds(1e9, start=math.inf, warmup=2),
        R.FallingBound(1e9, 1e9),
        R.TighteningBounds(1.0, 1e-12),
    ):
        bound, _ = trained(R.TrustRatio(clip=clip), backend="reference")
        assert_same(bound.weights(), free.weights())


@remembering
def test_these_bind(rule: R.Rule) -> None:
    """Else nothing here says anything."""
    limited = isinstance(rule, R.LimitedNorm)
    free = trained(R.TrustRatio(norm="direction") if limited else R.TrustRatio(), maximize=limited)[0]
    bound = trained(rule)[0]
    assert any((x - y).abs().max() > 1e-6 for x, y in zip(bound.params, free.params, strict=True))


# The norm


@pytest.mark.parametrize("growth", [0.0, 1e-4, 0.01])
def test_norms_grow_by_no_more_than_their_share(growth: float) -> None:
    problem = Problem()
    start = [float(p.detach().norm()) for p in problem.params]
    optimizer = lp.Layerwise(problem.named, direction="sgd", rule=R.LimitedNorm(growth), lr=0.3, exclude=None)
    reached = 0
    for step in range(20):
        before = [float(p.detach().norm()) for p in problem.params]
        problem.train(optimizer, 1, first=step)
        for p, first, old in zip(problem.params, start, before, strict=True):
            grown = float(p.detach().norm()) - old
            assert grown <= growth * first + 1e-14 * old
            reached += grown >= 0.999 * growth * first - 1e-14 * old
    assert reached > 10


def test_a_step_within_the_limit_is_that_of_lars() -> None:
    ours = trained(R.LimitedNorm(growth=1e6), direction="sgd")[0].weights()
    lars = trained(R.TrustRatio(norm="direction"), direction="sgd", maximize=True)[0].weights()
    torch.testing.assert_close(ours, lars, rtol=1e-13, atol=0)


def test_a_tensor_of_zeros_starts_at_min_rms() -> None:
    w = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    optimizer = lp.Layerwise([w], direction="sgd", rule="limited_norm", lr=0.5, min_rms=0.1)
    for _ in range(3):
        w.grad = torch.ones_like(w)
        optimizer.step()
    assert 0.1 < float(w.detach().square().mean().sqrt()) <= 0.1 * (1 + 3e-4)


def test_no_direction_and_no_rate_move_nothing() -> None:
    for lr, scale in ((0.0, 1.0), (0.5, 0.0)):
        w = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        before = w.detach().clone()
        optimizer = lp.Layerwise([w], direction="sgd", rule="limited_norm", lr=lr)
        for _ in range(2):
            w.grad = scale * torch.ones_like(w)
            optimizer.step()
        assert torch.equal(w.detach(), before)


# The memory


@remembering
@backends
def test_a_saved_run_continues_to_the_bit(rule: R.Rule, backend: str) -> None:
    whole, _ = trained(rule, 8, backend)
    first, method = trained(rule, 4, backend)
    other = lp.Layerwise(first.named, direction="adam", rule=rule, lr=0.1, backend=backend)
    other.load_state_dict(save_and_open(method.state_dict()))
    first.train(other, 4, first=4)
    assert_same(first.weights(), whole.weights())


@remembering
def test_backends_agree(rule: R.Rule) -> None:
    (one, ours), (other, theirs) = trained(rule, 8), trained(rule, 8, "reference")
    torch.testing.assert_close(one.weights(), other.weights(), rtol=1e-12, atol=1e-13)
    for p, q in zip(one.params, other.params, strict=True):
        for name in rule.state_names:
            torch.testing.assert_close(ours.state[p][name], theirs.state[q][name], rtol=1e-11, atol=1e-14)


@remembering
@backends
def test_a_step_without_rate_and_gradients_changes_nothing(rule: R.Rule, backend: str) -> None:
    problem, optimizer = trained(rule, 3, backend)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = snapshot(optimizer)
    for p in problem.params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_same(snapshot(optimizer), before)
    fresh = lp.Layerwise(problem.named, direction="adam", rule=rule, lr=0.0, backend=backend)
    fresh.step()
    for p in problem.params:
        assert all(not fresh.state[p][name].any() for name in rule.state_names)


@remembering
@backends
@pytest.mark.parametrize("steps", [0, 3])
def test_a_layer_that_is_held_back_keeps_its_memory(rule: R.Rule, backend: str, steps: int) -> None:
    problem, optimizer = trained(rule, steps, backend, nonfinite="skip")
    bad, good = problem.params[0], problem.params[2]
    zeros = torch.zeros(1, dtype=torch.float64)
    before = {p: {name: optimizer.state[p].get(name, zeros).clone() for name in rule.state_names} for p in (bad, good)}
    problem.set_gradients(steps)
    assert bad.grad is not None
    bad.grad[0, 0] = math.nan
    optimizer.step()
    for name in rule.state_names:
        assert torch.equal(optimizer.state[bad][name], before[bad][name])
        grows = name != "initial_norm" or steps == 0  # a first norm stays what it was
        deviates = name != "ratio_deviation" or steps > 0
        assert torch.equal(optimizer.state[good][name], before[good][name]) == (not (grows and deviates))


@backends
def test_excluded_layers_remember_nothing(backend: str) -> None:
    problem, optimizer = trained(REMEMBERING["running"], 3, backend)
    vector, matrix = problem.params[1], problem.params[0]
    assert [float(optimizer.state[vector][name]) for name in ("clip_step", "ratio_mean")] == [0, 0]
    assert float(optimizer.state[matrix]["clip_step"]) == 3


@backends
def test_segments_have_bounds_of_their_own(backend: str) -> None:
    """A tensor cut in two is trained as two tensors are."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    whole[4:] *= 30
    halves = [whole[:4].clone().requires_grad_(), whole[4:].clone().requires_grad_()]
    whole.requires_grad_()
    rule = REMEMBERING["two-sided"]
    options: dict[str, Any] = {"direction": "adam", "rule": rule, "lr": 0.1, "backend": backend}
    one = lp.Layerwise([("w", whole)], segments={"w": (4, 2)}, **options)
    two = lp.Layerwise(halves, **options)
    for _ in range(5):
        whole.grad = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        halves[0].grad, halves[1].grad = whole.grad[:4].clone(), whole.grad[4:].clone()
        one.step()
        two.step()
    torch.testing.assert_close(whole, torch.cat(halves), rtol=1e-12, atol=0)
    for name in rule.state_names:
        assert one.state[whole][name].shape == (2,)
        torch.testing.assert_close(one.state[whole][name], torch.cat([two.state[p][name] for p in halves]))


def test_a_wrapped_optimizer_remembers() -> None:
    rule = R.TrustRatio(clip=R.RunningBounds(warmup=2, start=0.5))
    ours, _ = trained(rule, 6, direction="sgd")
    problem = Problem()
    wrapped = lp.wrap(torch.optim.SGD(problem.params, lr=0.1), rule)
    problem.train(wrapped, 6)
    torch.testing.assert_close(problem.weights()[0], ours.weights()[0], rtol=1e-10, atol=0)
    assert float(wrapped.state[problem.params[0]]["clip_step"]) == 6


def test_a_state_without_memory_is_refused() -> None:
    problem, plain = trained(R.TrustRatio(clip=1.0), 2)
    other = lp.Layerwise(problem.named, direction="adam", rule=REMEMBERING["falling"], lr=0.1)
    with pytest.raises(ValueError, match="clip_step"):
        other.load_state_dict(plain.state_dict())


@remembering
def test_nothing_is_read_on_the_host(rule: R.Rule) -> None:
    """Tensors of the meta device have no values to wait for."""
    row = Table(torch.ones(3, 3, dtype=torch.float64, device="meta"), ("ww", "uu", "wu"))
    layers = facts(3, "meta")
    result = rule(row, layers, rule.init(row, layers))
    assert result.b.is_meta
    assert all(x.is_meta and x.shape == (3,) and x.dtype == torch.float64 for x in result.memory.values())


# Names and errors


def test_clips_as_text() -> None:
    for text, expected in {
        "running": R.RunningBounds(),
        "running(deviations=2)": R.RunningBounds(deviations=2),
        " running( 2, decay=0.9, start=inf, two_sided=True ) ": R.RunningBounds(2, 0.9, start=math.inf, two_sided=True),
        "tightening(gamma=0.1)": R.TighteningBounds(gamma=0.1),
        "falling(5, steps=1e2, course=linear)": R.FallingBound(5, steps=100, course="linear"),
        "falling(course='linear')": R.FallingBound(course="linear"),
        "larc": R.LARCClip(),
        "running(two_sided=true)": R.RunningBounds(two_sided=True),
        "running(two_sided=false)": R.RunningBounds(two_sided=False),
        "bounds(0.5)": R.Bounds(0, 0.5),  # as trust_clip=0.5 is
        "bounds(lower=0.5)": R.Bounds(0.5, 1),
        "bounds(0.5, upper=2)": R.Bounds(0.5, 2),
    }.items():
        assert R.clip_rule(text) == expected
    by_text = trained(R.TrustRatio(clip="falling(2, 0.1, 5)"))[0]
    assert_same(by_text.weights(), trained(REMEMBERING["falling"])[0].weights())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runing", "one of 'bounds', 'larc', 'running', 'tightening', 'falling'"),
        ("", "one of 'bounds'"),
        ("running(", "must be a name such as"),
        ("running(1)(2)", "must be a name such as"),
        ("running(1 + x)", "must be a name such as"),
        ("running(decay=0.9, decay=0.8)", "must be a name such as"),
        ("running(speed=1)", "takes deviations, decay"),
        ("running(1, deviations=2)", "takes deviations, decay"),
        ("running(1, 0.5, 1, 1, True, 5)", "takes deviations, decay"),
        ("running(**{'decay': 0.5})", "takes deviations, decay"),
        ("larc(1)", "takes no arguments"),
        ("running(decay=1)", r"decay must be in \[0, 1\), got 1"),
        ("falling(start=0.5)", r"start must be in \[1, inf\), got 0.5"),
        ("bounds(-1)", r"upper bound must be in \[0, inf\), got -1"),
        ("falling(course=up)", "course must be one of 'geometric', 'linear', got 'up'"),
    ],
)
def test_bad_text_is_refused(text: str, message: str) -> None:
    for make in (
        lambda: R.clip_rule(text),
        lambda: R.TrustRatio(clip=text),
        lambda: lp.LAMBC(weight(), trust_clip=text),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: R.RunningBounds(deviations=-1), r"deviations must be in \[0, inf\), got -1"),
        (lambda: R.RunningBounds(decay=math.nan), r"decay must be in \[0, 1\), got nan"),
        (lambda: R.RunningBounds(warmup=0), r"warmup must be in \[1, inf\), got 0"),
        (lambda: R.RunningBounds(start=-1), r"start must be in \[0, inf\), got -1"),
        (lambda: R.TighteningBounds(final=0), r"final must be in \(0, inf\), got 0"),
        (lambda: R.TighteningBounds(gamma=0), r"gamma must be in \(0, inf\), got 0"),
        (lambda: R.FallingBound(end=0), r"end must be in \(0, inf\), got 0"),
        (lambda: R.FallingBound(start=math.inf), r"start must be in \[1, inf\), got inf"),
        (lambda: R.FallingBound(steps=0), r"steps must be in \[1, inf\), got 0"),
        (lambda: R.LimitedNorm(growth=-1e-4), r"growth must be in \[0, inf\), got -0.0001"),
    ],
)
def test_values_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", ["'false'", "no", "0", "None"])
def test_two_sided_is_true_or_false(value: str) -> None:
    with pytest.raises(TypeError, match="two_sided must be True or False, got "):
        R.clip_rule(f"running(two_sided={value})")


@pytest.mark.parametrize("clip", [True, object(), (1.0,), R.RunningBounds])
def test_what_is_no_clip_is_refused(clip: Any) -> None:
    with pytest.raises(TypeError, match="trust_clip must be None"):
        R.TrustRatio(clip=clip)


def weight() -> list[Tensor]:
    return [torch.ones(3, 2, dtype=torch.float64, requires_grad=True)]


def test_methods_of_the_lab() -> None:
    from layerpace.lab.methods import parse_method

    method = parse_method("lambc:clip=running(deviations=2,decay=0.5),lr=0.1/0.2")
    assert method.rates == (0.1, 0.2)
    built = method.build([("w", weight()[0])], 0.1)
    assert isinstance(built, lp.LAMBC)
    assert isinstance(built.rule, R.TrustRatio)
    assert R.clip_rule(built.rule.clip) == R.RunningBounds(2, 0.5)
    for name, cls in {"tightening": R.TighteningBounds, "falling": R.FallingBound}.items():
        rule = parse_method(f"lamb:clip={name}").build([("w", weight()[0])], 0.1).rule  # type: ignore[attr-defined]
        assert R.clip_rule(rule.clip) == cls()
    limited = parse_method("sgd+limited_norm:growth=1e-3").build([("w", weight()[0])], 0.1)
    assert isinstance(limited, lp.Layerwise)
    assert limited.rule == R.LimitedNorm(1e-3)
    with pytest.raises(ValueError, match="'running' takes deviations"):
        parse_method("lambc:clip=running(speed=1)").build([("w", weight()[0])], 0.1)
