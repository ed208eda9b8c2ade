"""Gradients with inf or nan: propagate, skip the layer without a trace, or raise before anything changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.methods import NAMES, NATIVE, Make, Problem, assert_differ, assert_same, native, snapshot
from torch import Tensor

import layerpace as lp

BAD = (math.inf, -math.inf, math.nan)
bad_values = pytest.mark.parametrize("bad", BAD, ids=["inf", "-inf", "nan"])
some = pytest.mark.parametrize(
    "make",
    [NATIVE[name] for name in ("LARS", "LAMB", "PercentDelta", "Layca momentum", "rmsprop, rotation")],
    ids=["LARS", "LAMB", "PercentDelta", "Layca momentum", "rmsprop, rotation"],
)


def layer_state(optimizer: torch.optim.Optimizer, param: Tensor) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in optimizer.state[param].items()}


def poison(problem: Problem, index: int, bad: float) -> None:
    grad = problem.params[index].grad
    assert grad is not None
    grad.reshape(-1)[-1] = bad  # a view: these gradients are contiguous


@native
@bad_values
def test_skip_leaves_the_layer_as_it_was_and_moves_the_others(make: Make, bad: float) -> None:
    """As if the layer had had no gradient in that step: weights, moments, velocity, step count."""
    problem, other = Problem(), Problem()
    skipping, reference = make(problem.params, nonfinite="skip"), make(other.params)
    for step in range(6):
        problem.set_gradients(step)
        other.set_gradients(step)
        if step in (2, 4):
            poison(problem, 0, bad)
            other.params[0].grad = None
            before = problem.params[0].detach().clone(), layer_state(skipping, problem.params[0])
            skipping.step()
            assert torch.equal(problem.params[0], before[0])
            assert_same(layer_state(skipping, problem.params[0]), before[1])
        else:
            skipping.step()
        reference.step()
    for p, q in zip(problem.params, other.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
        for name, value in reference.state[q].items():
            torch.testing.assert_close(
                skipping.state[p][name].reshape(value.shape), value, rtol=1e-11, atol=1e-13, check_dtype=False
            )
    assert float(skipping.state[problem.params[0]]["step"]) == 4
    assert float(skipping.state[problem.params[2]]["step"]) == 6


@native
def test_skip_in_the_very_first_step(make: Make) -> None:
    """No bias correction by a step count of 0, no initial norm of a nan, no momentum of zeros."""
    problem, other = Problem(), Problem()
    skipping, reference = make(problem.params, nonfinite="skip"), make(other.params)
    for step in range(5):
        problem.set_gradients(step)
        other.set_gradients(step)
        if step < 2:
            for k in (0, 1):
                poison(problem, k, math.nan)
                other.params[k].grad = None
        skipping.step()
        reference.step()
        assert all(torch.isfinite(p).all() for p in problem.params)
    for p, q in zip(problem.params, other.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@native
def test_skip_changes_nothing_for_finite_gradients(make: Make) -> None:
    a, b = Problem(), Problem()
    a.train(make(a.params, nonfinite="skip"), 5)
    b.train(make(b.params), 5)
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@native
def test_skip_holds_for_each_segment(make: Make) -> None:
    """A segment is a layer: the rows of the others move, and count their steps."""
    segments = {"first.weight": [1, 3]}
    problem = Problem()
    optimizer = make(problem.named, nonfinite="skip", segments=segments)

    other = Problem()  # the same tensor as two parameters
    top = other.params[0].detach()[:1].clone().requires_grad_()
    rest = other.params[0].detach()[1:].clone().requires_grad_()
    reference = make([top, rest, *other.params[1:]])
    for step in range(5):
        problem.set_gradients(step)
        other.set_gradients(step)
        grad = problem.params[0].grad
        assert grad is not None
        top.grad, rest.grad = grad[:1].clone(), grad[1:].clone()
        if step in (0, 3):
            grad[2, 1] = math.inf
            rest.grad = None
        optimizer.step()
        reference.step()
    torch.testing.assert_close(problem.params[0][:1], top, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(problem.params[0][1:], rest, rtol=1e-12, atol=1e-13)
    for p, q in zip(problem.params[1:], other.params[1:], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    steps = optimizer.state[problem.params[0]]["step"].reshape(-1)
    assert steps.tolist() == [5, 3, 3, 3]


@some
@bad_values
def test_raise_names_the_layers_before_anything_changes(make: Make, bad: float) -> None:
    problem = Problem()
    optimizer = make(problem.named, nonfinite="raise")
    problem.train(optimizer, 2)
    before = snapshot(optimizer)
    problem.set_gradients(2)
    poison(problem, 0, bad)
    poison(problem, 3, bad)
    with pytest.raises(FloatingPointError) as error:
        optimizer.step()
    assert NAMES[0] in str(error.value)
    assert NAMES[3] in str(error.value)
    assert NAMES[1] not in str(error.value)
    assert NAMES[2] not in str(error.value)
    assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 1, first=2)
    reference = Problem()
    reference.train(make(reference.params), 3)
    assert_same(problem.weights(), reference.weights())


def test_raise_without_names_still_tells_which() -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params, nonfinite="raise")
    problem.set_gradients(0)
    poison(problem, 2, math.nan)
    with pytest.raises(FloatingPointError, match=r"\(2, 3, 2, 2\)|parameter 2"):
        optimizer.step()


@native
def test_propagate_reaches_the_layer_itself_alone(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer, reference = make(problem.params), make(other.params)
    for step in range(3):
        problem.set_gradients(step)
        other.set_gradients(step)
        if step == 1:
            poison(problem, 0, math.nan)
        optimizer.step()
        reference.step()
    assert problem.params[0].isnan().any()
    assert_same(problem.weights()[1:], other.weights()[1:])


@some
def test_a_finite_gradient_whose_square_overflows_is_no_reason_to_skip(make: Make) -> None:
    weight = torch.ones(4, 3, dtype=torch.float32, requires_grad=True)
    optimizer = make([weight], nonfinite="skip")
    weight.grad = torch.full_like(weight, 1e30)  # squares: 1e60, beyond float32
    weight.grad[0, 0] = -1e30
    optimizer.step()
    state = optimizer.state[weight]
    assert float(state["step"]) == 1


@some
def test_skip_with_half_precision_weights(make: Make) -> None:
    problem = Problem(dtype=torch.bfloat16)
    optimizer = make(problem.params, nonfinite="skip")
    problem.train(optimizer, 2)
    problem.set_gradients(2)
    poison(problem, 0, math.inf)
    before = problem.params[0].detach().clone(), layer_state(optimizer, problem.params[0])
    others = problem.weights()[1:3]
    optimizer.step()
    assert torch.equal(problem.params[0], before[0])
    assert_same(layer_state(optimizer, problem.params[0]), before[1])
    assert_differ(problem.weights()[1:3], others)


@some
def test_skip_with_complex_weights(make: Make) -> None:
    weight = torch.ones(3, 2, dtype=torch.complex64, requires_grad=True)
    optimizer = make([weight], nonfinite="skip", exclude=None)
    weight.grad = torch.full_like(weight, 1 - 1j)
    weight.grad[0, 0] = complex(1.0, math.nan)
    optimizer.step()
    assert torch.equal(weight, torch.ones_like(weight))
    weight.grad = torch.full_like(weight, 1 - 1j)
    optimizer.step()
    assert torch.isfinite(torch.view_as_real(weight.detach())).all()
    assert not torch.equal(weight, torch.ones_like(weight))


@some
@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_a_step_that_grad_scaler_skips_is_skipped_as_a_whole(make: Make, nonfinite: str) -> None:
    """found_inf wins: no layer moves, nothing raises."""
    problem = Problem()
    optimizer = make(problem.params, nonfinite=nonfinite)
    problem.train(optimizer, 2)
    before = snapshot(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(torch.ones(()))
    problem.set_gradients(2)
    poison(problem, 0, math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 8.0
    assert_same(snapshot(optimizer)[0], before[0])
    for entry, old in zip(snapshot(optimizer)[1]["state"].values(), before[1]["state"].values(), strict=True):
        assert_same(entry, old)


@some
def test_skip_counts_the_scaled_gradients(make: Make) -> None:
    """With a scale that a gradient overflows under, but not by grad_scale: the step is that of the unscaled."""
    a, b = Problem(), Problem()
    one, other = make(a.params, nonfinite="skip"), make(b.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(torch.ones(()))
    for step in range(4):
        a.set_gradients(step)
        for p in a.params:
            p.grad.mul_(2.0**10)  # type: ignore[union-attr]
        scaler.step(one)
        scaler.update()
        b.train(other, 1, first=step)
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@some
def test_a_skipped_layer_does_not_count_in_the_global_norm(make: Make) -> None:
    a, b = Problem(), Problem()
    one, other = make(a.params, nonfinite="skip", max_grad_norm=0.5), make(b.params, max_grad_norm=0.5)
    for step in range(3):
        a.set_gradients(step)
        b.set_gradients(step)
        if step == 1:
            poison(a, 0, math.nan)
            b.params[0].grad = None
        one.step()
        other.step()
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@some
def test_skipping_resumes_from_a_state_dict(make: Make) -> None:
    problem, other = Problem(), Problem()
    options: dict[str, Any] = {"nonfinite": "skip", "segments": {"first.weight": [1, 3]}}
    optimizer, fresh = make(problem.named, **options), make(other.named, **options)
    for step in range(3):
        problem.set_gradients(step)
        if step == 1:
            poison(problem, 0, math.inf)
        optimizer.step()
    with torch.no_grad():
        for p, q in zip(problem.params, other.params, strict=True):
            q.copy_(p)
    fresh.load_state_dict(optimizer.state_dict())
    problem.train(optimizer, 3, first=3)
    other.train(fresh, 3, first=3)
    assert_same(other.weights(), problem.weights())
    assert_same(fresh.state_dict()["state"], optimizer.state_dict()["state"])
