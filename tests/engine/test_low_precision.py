"""Weights in bfloat16 and float16: moments in float32, progress under steps below the resolution, fair rounding."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.methods import NATIVE, Make, Problem, assert_same, native, save_and_open
from torch import Tensor

import layerpace as lp
from layerpace.engine.numerics.precision import round_stochastically

HALF = (torch.bfloat16, torch.float16)
MODES = ("master", "stochastic", "plain")
halves = pytest.mark.parametrize("dtype", HALF, ids=["bfloat16", "float16"])
modes = pytest.mark.parametrize("mode", MODES)


def constant_pull(dtype: torch.dtype, mode: str, steps: int, step_share: float, size: int = 4000) -> Tensor:
    """Weights of 1 under a constant gradient, whose steps are a share of the distance to the next number."""
    spacing = torch.finfo(dtype).eps / 2  # below 1
    torch.manual_seed(0)
    weight = torch.ones(size, dtype=dtype, requires_grad=True)
    optimizer = lp.Layerwise([weight], direction="sgd", rule="identity", lr=step_share * spacing, low_precision=mode)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    result: Tensor = (1 - weight.detach().double()) / spacing  # distance gone, in units of the spacing
    return result


@halves
def test_master_copy_makes_exact_progress_below_the_resolution(dtype: torch.dtype) -> None:
    gone = constant_pull(dtype, "master", steps=64, step_share=1 / 16)
    assert torch.equal(gone, torch.full_like(gone, 4.0))


@halves
def test_stochastic_rounding_makes_progress_on_average(dtype: torch.dtype) -> None:
    steps, share = 64, 1 / 16
    gone = constant_pull(dtype, "stochastic", steps, share)
    # each step goes one spacing with probability 1/16: a binomial with mean 4
    deviation = math.sqrt(steps * share * (1 - share))
    assert abs(gone.mean().item() - steps * share) < 5 * deviation / math.sqrt(gone.numel())
    assert abs(gone.std().item() / deviation - 1) < 0.1
    assert torch.equal(gone, gone.round())


@halves
def test_plain_rounding_makes_none(dtype: torch.dtype) -> None:
    gone = constant_pull(dtype, "plain", steps=64, step_share=1 / 16)
    assert not gone.any()


@native
@halves
@modes
def test_moments_are_float32(make: Make, dtype: torch.dtype, mode: str) -> None:
    problem = Problem(dtype=dtype)
    optimizer = make(problem.params, low_precision=mode)
    problem.train(optimizer, 3)
    for p in problem.params:
        assert p.dtype == dtype
        state = optimizer.state[p]
        assert ("master" in state) == (mode == "master")
        for name, value in state.items():
            assert value.dtype in (torch.float32, torch.float64), name
            assert value.ndim == 0 or value.shape != p.shape or value.dtype == torch.float32, name
    if mode == "master":
        for p in problem.params:
            assert torch.equal(optimizer.state[p]["master"].to(dtype), p)


@native
@halves
def test_training_with_a_master_copy_is_float32_training_on_rounded_gradients(make: Make, dtype: torch.dtype) -> None:
    """The same gradients, rounded to half precision, to float32 weights: the same weights, to the bit."""
    half, full = Problem(dtype=dtype), Problem(dtype=torch.float32)
    with torch.no_grad():
        for p, q in zip(half.params, full.params, strict=True):
            q.copy_(p)
    a, b = make(half.params), make(full.params)
    for step in range(6):
        half.set_gradients(step)
        for p, q in zip(half.params, full.params, strict=True):
            q.grad = p.grad.float()  # type: ignore[union-attr]
        a.step()
        b.step()
        for p, q in zip(half.params, full.params, strict=True):
            assert torch.equal(a.state[p]["master"], q)
            assert torch.equal(p, q.to(dtype))


@native
@halves
@modes
def test_results_agree_with_float32_to_the_rounding(make: Make, dtype: torch.dtype, mode: str) -> None:
    torch.manual_seed(1)
    half, full = Problem(dtype=dtype), Problem(dtype=torch.float32)
    a, b = make(half.params, low_precision=mode), make(full.params)
    steps = 4
    start = full.weights()
    for step in range(steps):
        full.set_gradients(step)
        for p, q in zip(half.params, full.params, strict=True):
            p.grad = q.grad.to(dtype)  # type: ignore[union-attr]
        a.step()
        b.step()
    eps = torch.finfo(dtype).eps
    for p, q, w in zip(half.params, full.params, start, strict=True):
        size = float(torch.maximum(q.detach().abs().max(), w.abs().max()))
        moved = float((q.detach() - w).abs().max())
        error = float((p.detach().float() - q.detach()).abs().max())
        assert error <= (steps + 1) * eps * size + 40 * eps * moved


@native
@modes
def test_half_precision_training_resumes_to_the_bit(make: Make, mode: str) -> None:
    problem = Problem(dtype=torch.bfloat16)
    optimizer = make(problem.params, low_precision=mode)
    problem.train(optimizer, 3)
    saved = save_and_open([optimizer.state_dict(), problem.weights()])
    torch.manual_seed(3)
    problem.train(optimizer, 3, first=3)

    other = Problem(dtype=torch.bfloat16)
    fresh = make(other.params, low_precision=mode)
    with torch.no_grad():
        for p, w in zip(other.params, saved[1], strict=True):
            p.copy_(w)
    fresh.load_state_dict(saved[0])
    torch.manual_seed(3)
    other.train(fresh, 3, first=3)
    assert_same(other.weights(), problem.weights())
    assert_same(fresh.state_dict()["state"], optimizer.state_dict()["state"])


@halves
@pytest.mark.parametrize("name", ["LARS", "LAMB", "PercentDelta", "Layca", "adam, identity"])
def test_the_master_copy_follows_writes_from_outside(dtype: torch.dtype, name: str) -> None:
    """What a user (load_state_dict, a clamp, a projection) writes to a weight counts; entries left alone keep
    their float32 digits."""
    problem = Problem(dtype=dtype)
    optimizer = NATIVE[name](problem.params)
    problem.train(optimizer, 3)
    weight = problem.params[0]
    master = optimizer.state[weight]["master"].clone()
    with torch.no_grad():
        weight.data[1] = torch.tensor([0.5, -0.25, 3.0], dtype=dtype)
    expected = master.clone()
    expected[1] = torch.tensor([0.5, -0.25, 3.0])

    twin = Problem(dtype=torch.float32)
    reference = NATIVE[name](twin.params)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry.pop("master")
    with torch.no_grad():
        twin.params[0].copy_(expected)
        for k in (1, 2, 3):
            twin.params[k].copy_(optimizer.state[problem.params[k]]["master"])
    reference.load_state_dict(state)
    problem.set_gradients(3)
    for p, q in zip(problem.params, twin.params, strict=True):
        q.grad = p.grad.float()  # type: ignore[union-attr]
    optimizer.step()
    reference.step()
    for p, q in zip(problem.params, twin.params, strict=True):
        assert torch.equal(optimizer.state[p]["master"], q)
        assert torch.equal(p, q.to(dtype))


def test_a_model_loaded_after_training_began_is_not_overwritten_by_the_master_copy() -> None:
    model = torch.nn.Linear(4, 3).bfloat16()
    saved = copy.deepcopy(model.state_dict())
    optimizer = lp.LAMB(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(2, 4, dtype=torch.bfloat16)).square().sum().backward()
        optimizer.step()
    model.load_state_dict(saved)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 1e-12
    optimizer.step()
    assert_same(dict(model.state_dict()), dict(saved))


@halves
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype) -> None:
    """Means over many draws, at several places between two neighbours and in several binades."""
    torch.manual_seed(0)
    draws = 40_000
    spacing = torch.finfo(dtype).eps
    tiny = float(torch.finfo(dtype).smallest_normal)
    for scale in (1.0, -1.0, 8.0, -(2.0**-9), tiny, tiny / 4):
        for share in (1 / 64, 0.25, 0.5, 7 / 8):
            if abs(scale) < tiny:  # subnormal numbers all have the spacing of the smallest binade
                low, gap = scale, tiny * spacing
            else:
                low, gap = scale, abs(scale) * spacing
            value = low + math.copysign(share * gap, low)
            x = torch.full((draws,), value, dtype=torch.float32)
            assert x[0].item() == value  # the value is exact in float32
            rounded = round_stochastically(x, dtype).double()
            high = low + math.copysign(gap, low)
            assert set(rounded.tolist()) == {low, high}
            found = (rounded == high).double().mean().item()
            assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / draws)


@halves
def test_stochastic_rounding_never_moves_what_is_exact(dtype: torch.dtype) -> None:
    """All 65536 numbers of the dtype, many times."""
    torch.manual_seed(0)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for _ in range(64):
        rounded = round_stochastically(every.float(), dtype)
        assert torch.equal(rounded[~every.isnan()], every[~every.isnan()])
        assert rounded[every.isnan()].isnan().all()


@halves
def test_stochastic_rounding_ends_at_a_neighbour(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(100_000) * 10 ** torch.empty(100_000).uniform_(-6, 4)
    x = x.clamp(-6e4, 6e4)
    rounded = round_stochastically(x, dtype)
    nearest = x.to(dtype)
    below = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    above = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    low = torch.where(nearest.float() <= x, nearest, below)
    high = torch.where(nearest.float() >= x, nearest, above)
    assert ((rounded == low) | (rounded == high)).all()
    assert (rounded == low).any()
    assert (rounded == high).any()


@halves
def test_stochastic_rounding_keeps_inf_and_nan(dtype: torch.dtype) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    rounded = round_stochastically(x, dtype)
    assert rounded[0] == math.inf
    assert rounded[1] == -math.inf
    assert rounded[2].isnan()
    assert not rounded[3:].any()
    beyond = round_stochastically(torch.tensor([3.4e38, -3.4e38]), dtype)
    assert not beyond.isnan().any()
    assert torch.equal(beyond.sign(), torch.tensor([1.0, -1.0], dtype=dtype))


def test_a_seed_repeats_stochastic_rounding() -> None:
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        problem = Problem(dtype=torch.bfloat16)
        problem.train(lp.LAMB(problem.params, lr=0.02, low_precision="stochastic"), 5)
        results.append(problem.weights())
    assert_same(results[0], results[1])
    assert any(not torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"max_grad_norm": 1e-30}])
@modes
@halves
def test_weights_that_do_not_move_keep_their_bits(dtype: torch.dtype, mode: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(20_000, dtype=torch.float32).to(dtype).requires_grad_()
    before = weight.detach().clone()
    arguments = {"lr": 0.1, "rule": "identity", "direction": "sgd", "low_precision": mode, **options}
    optimizer = lp.Layerwise([weight], **arguments)
    for _ in range(10):
        weight.grad = torch.full_like(weight, 1e-3)
        optimizer.step()
    assert torch.equal(weight, before)


@modes
def test_the_option_changes_nothing_in_full_precision(mode: str) -> None:
    for dtype in (torch.float32, torch.float64):
        a, b = Problem(dtype=dtype), Problem(dtype=dtype)
        one, other = lp.LAMB(a.params, lr=0.02, low_precision=mode), lp.LAMB(b.params, lr=0.02)
        a.train(one, 3)
        b.train(other, 3)
        assert_same(a.weights(), b.weights())
        assert all("master" not in state for state in one.state.values())


def test_float16_gradients_below_float16_squares_still_count() -> None:
    """A gradient of 1e-5 squared is zero in float16; float32 moments keep it, and Adam's step has full length."""
    weight = torch.ones(10, dtype=torch.float16, requires_grad=True)
    optimizer = lp.Layerwise([weight], direction=lp.directions.Adam(eps=0.0), rule="identity", lr=0.125)
    weight.grad = torch.full_like(weight, 1e-5)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.875), rtol=1e-3, atol=0)
