"""Moments in bfloat16: half the memory, written by fair rounding, and steps that see them as float32."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from tests.methods import NATIVE, Make, Problem, assert_same, save_and_open
from torch import Tensor

import layerpace as lp

BACKENDS = ["reference", "cpu"]
CENTERED = "rmsprop, rotation"  # which needs float32
FITTING = {name: make for name, make in NATIVE.items() if name != CENTERED}
native = pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
backends = pytest.mark.parametrize("backend", BACKENDS)
some = pytest.mark.parametrize("name", ["LARS", "LAMB", "EMA, rotation", "nadam, trust ratio", "radam, relative L1"])

# What keeps its digits.
NUMBERS = ("step", "mu_product", "initial_norm", "clip_step", "ratio_mean", "ratio_deviation", "master")


def moments(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], Tensor]:
    """The tensors that the option is about, by (number of the parameter, name)."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    found = ((k, name, value) for k, p in enumerate(params) for name, value in optimizer.state[p].items())
    return {(k, name): value for k, name, value in found if name not in NUMBERS}


def neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest bfloat16 number <= x and the smallest >= x."""
    nearest = x.bfloat16()
    below = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    above = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    return torch.where(nearest.float() <= x, nearest, below), torch.where(nearest.float() >= x, nearest, above)


@native
@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_take_two_bytes_and_numbers_keep_theirs(make: Make, backend: str, dtype: torch.dtype) -> None:
    wide, narrow = Problem(dtype=dtype), Problem(dtype=dtype)
    a, b = make(wide.params, backend=backend), make(narrow.params, state_dtype="bf16", backend=backend)
    wide.train(a, 2)
    narrow.train(b, 1)
    kept = moments(b)
    narrow.train(b, 1, first=1)
    assert set(kept) == set(moments(b)) == set(moments(a))
    for key, value in moments(b).items():
        assert value is kept[key], f"{key} is not updated in place"
        assert value.dtype == torch.bfloat16, key
        assert value.shape == narrow.params[key[0]].shape, key
        assert value.any(), key
    for p, q in zip(wide.params, narrow.params, strict=True):
        numbers = {name: x.dtype for name, x in a.state[p].items() if name in NUMBERS}
        assert numbers == {name: x.dtype for name, x in b.state[q].items() if name in NUMBERS}


@backends
def test_moments_keep_the_memory_layout_of_their_weights(backend: str) -> None:
    weight = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = lp.Layerwise(
        [weight], direction="adam", rule="identity", lr=0.1, momentum=0.5, state_dtype="bf16", backend=backend
    )
    weight.grad = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert set(moments(optimizer)) == {(0, "exp_avg"), (0, "exp_avg_sq"), (0, "velocity")}
    for value in moments(optimizer).values():
        assert value.stride() == weight.stride()


def copies(make: Make, backend: str) -> tuple[list[Tensor], torch.optim.Optimizer, torch.optim.Optimizer]:
    """Two optimizers after one more step from the same bfloat16 moments: [float32 weight, its twin whose moments are
    bfloat16], and the two optimizers. Each row of the weights is the same 8 numbers with the same gradients."""
    generator = torch.Generator().manual_seed(1)
    rows, start = 2000, torch.randn(8, generator=generator)
    weight, twin = (start.expand(rows, 8).clone().requires_grad_() for _ in range(2))
    wide, narrow = make([weight], backend=backend), make([twin], state_dtype="bf16", backend=backend)
    gradients = [torch.randn(8, generator=generator).expand(rows, 8) for _ in range(4)]
    for g in gradients[:-1]:
        weight.grad = g.clone()
        wide.step()
    narrow.load_state_dict(wide.state_dict())  # rounded to nearest: the same in every row
    wide.load_state_dict(narrow.state_dict())
    with torch.no_grad():
        twin.copy_(weight)
    torch.manual_seed(0)
    for w, optimizer in ((weight, wide), (twin, narrow)):
        w.grad = gradients[-1].clone()
        optimizer.step()
    return [weight, twin], wide, narrow


@native
@backends
def test_a_step_sees_unrounded_values_and_stores_fair_roundings_of_them(make: Make, backend: str) -> None:
    """The weights go where float32 moments take them; what is stored is a neighbour of the float32 value, and on
    average the value itself."""
    (weight, twin), wide, narrow = copies(make, backend)
    assert torch.equal(weight, twin)
    for key, value in moments(wide).items():
        stored, (low, high) = moments(narrow)[key], neighbours(value)
        assert ((stored == low) | (stored == high)).all(), key
        gap = high.double() - low.double()
        share = torch.where(gap > 0, (value.double() - low.double()) / gap, 0.0)[0]
        deviation = gap[0] * (share * (1 - share) / len(value)).sqrt()
        assert (share > 0).any(), f"{key}: nothing to round"
        assert ((stored.double().mean(0) - value.double()[0]).abs() <= 5 * deviation).all(), key


@native
@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_of_half_precision_weights_sees_unrounded_values_too(
    make: Make, backend: str, dtype: torch.dtype
) -> None:
    wide, narrow = Problem(dtype=dtype), Problem(dtype=dtype)
    a, b = make(wide.params, backend=backend), make(narrow.params, state_dtype="bf16", backend=backend)
    narrow.train(b, 3)
    with torch.no_grad():
        for p, q in zip(wide.params, narrow.params, strict=True):
            p.copy_(q)
    a.load_state_dict(b.state_dict())
    wide.train(a, 1, first=3)
    narrow.train(b, 1, first=3)
    for p, q in zip(wide.params, narrow.params, strict=True):
        assert torch.equal(a.state[p]["master"], b.state[q]["master"])


@backends
def test_a_centered_rmsprop_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="state_dtype='bf16' cannot hold a centered RMSProp"):
        NATIVE[CENTERED](Problem().params, state_dtype="bf16", backend=backend)


@native
@backends
def test_training_stays_close_to_that_with_float32_moments(make: Make, backend: str) -> None:
    torch.manual_seed(0)
    wide, narrow = Problem(dtype=torch.float32), Problem(dtype=torch.float32)
    start = wide.weights()
    wide.train(make(wide.params, backend=backend), 30)
    narrow.train(make(narrow.params, state_dtype="bf16", backend=backend), 30)
    for p, q, w in zip(wide.weights(), narrow.weights(), start, strict=True):
        assert float((p - q).norm()) <= 0.03 * float((p - w).norm())


@backends
def test_an_average_decays_where_rounding_to_nearest_keeps_it(backend: str) -> None:
    """v <- 0.999*v: below 1 the bfloat16 numbers are 0.0039 apart, and 0.999 is nearest to 1."""
    steps, copies = 400, 4000
    weight = torch.zeros(copies, requires_grad=True)
    direction = lp.directions.Adam(betas=(0.9, 0.999))
    optimizer = lp.Layerwise(
        [weight], direction=direction, rule="identity", lr=1e-3, state_dtype="bf16", backend=backend
    )
    weight.grad = torch.full_like(weight, math.sqrt(1000.0))
    optimizer.step()
    optimizer.state[weight]["exp_avg_sq"].fill_(1.0)
    nearest = torch.ones((), dtype=torch.bfloat16)
    torch.manual_seed(0)
    for _ in range(steps):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        nearest = (nearest.float() * 0.999).bfloat16()
    assert float(nearest) == 1.0
    found = optimizer.state[weight]["exp_avg_sq"].double()
    assert float(found.std()) > 0
    assert abs(float(found.mean()) - 0.999**steps) <= 5 * float(found.std()) / math.sqrt(copies)


def spiked_lamb(rounding: str, backend: str) -> float:
    """Loss after LAMB on a bowl with noisy gradients, which begin with spikes in every second weight: their second
    moment must fall again before they move as fast as the others."""
    generator = torch.Generator().manual_seed(0)
    size, spikes, steps, lr = 500, 50, 2050, 1e-3
    start = torch.randn(size, generator=generator)
    target = start + 0.5 * torch.randn(size, generator=generator)
    spiked = torch.arange(size) % 2
    weight = start.clone().requires_grad_()
    state_dtype = "bf16" if rounding == "stochastic" else "fp32"
    optimizer = lp.LAMB([weight], lr=lr, exclude=None, state_dtype=state_dtype, backend=backend)
    torch.manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        weight.grad = weight.detach() - target + 0.3 * torch.randn(size, generator=generator)
        if step < spikes:
            weight.grad += 30 * spiked * torch.randn(size, generator=generator)
        optimizer.step()
        if rounding == "nearest":
            for value in moments(optimizer).values():
                value.copy_(value.bfloat16())
    return float((weight.detach() - target).square().mean())


@backends
def test_lamb_reaches_the_loss_of_float32_where_rounding_to_nearest_stalls(backend: str) -> None:
    exact = spiked_lamb("none", backend)
    assert spiked_lamb("stochastic", backend) == pytest.approx(exact, rel=0.05)
    assert spiked_lamb("nearest", backend) > 1.5 * exact


@native
@backends
def test_a_layer_held_back_keeps_the_bits_of_its_moments(make: Make, backend: str) -> None:
    """A parameter whose gradient is not finite, and a row of one that is cut into rows."""
    torch.manual_seed(0)
    problem = Problem(dtype=torch.float32)
    options: dict[str, Any] = {"nonfinite": "skip", "segments": {"first.weight": "rows"}}
    optimizer = make(problem.named, state_dtype="bf16", backend=backend, **options)
    problem.train(optimizer, 3)
    before, weights = copy.deepcopy(moments(optimizer)), problem.weights()
    problem.set_gradients(3)
    gradients = [p.grad for p in problem.params if p.grad is not None]
    for g in gradients:
        g *= 10  # so that a moment which decays slowly is not rounded to where it was
    gradients[0][1, 0] = math.nan
    gradients[2].view(-1)[0] = math.inf
    optimizer.step()
    rows = torch.tensor([0, 2, 3])
    assert torch.equal(problem.params[0][1], weights[0][1])
    assert torch.equal(problem.params[2], weights[2])
    assert not torch.equal(problem.params[0][rows], weights[0][rows])
    for (k, name), value in moments(optimizer).items():
        old = before[k, name]
        if k == 2:
            assert torch.equal(value, old), name
        elif k == 0:
            assert torch.equal(value[1], old[1]), name
            assert all(not torch.equal(value[row], old[row]) for row in rows), name
        else:
            assert not torch.equal(value, old), name


@native
@backends
def test_a_step_that_grad_scaler_skips_keeps_all_bits(make: Make, backend: str) -> None:
    problem = Problem(dtype=torch.float32)
    optimizer = make(problem.params, state_dtype="bf16", backend=backend)
    problem.train(optimizer, 3)
    before, weights = copy.deepcopy(optimizer.state_dict()["state"]), problem.weights()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)  # type: ignore[attr-defined]
    problem.train(optimizer, 1, first=3)
    assert_same(problem.weights(), weights)
    assert_same(optimizer.state_dict()["state"], before)


@native
@backends
@pytest.mark.parametrize(("saved", "loaded"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_state_loads_from_the_other_dtype(make: Make, backend: str, saved: str, loaded: str) -> None:
    problem, other = Problem(dtype=torch.float32), Problem(dtype=torch.float32)
    a = make(problem.params, state_dtype=saved, backend=backend)
    b = make(other.params, state_dtype=loaded, backend=backend)
    problem.train(a, 3)
    b.load_state_dict(save_and_open(a.state_dict()))
    dtype = torch.bfloat16 if loaded == "bf16" else torch.float32
    assert set(moments(b)) == set(moments(a))
    for key, value in moments(a).items():
        assert_same(moments(b)[key], value.to(dtype), str(key))  # to nearest, or exactly
    for p, q in zip(problem.params, other.params, strict=True):
        assert_same(*({k: v for k, v in o.state[x].items() if k in NUMBERS} for o, x in ((a, p), (b, q))))
    other.train(b, 2, first=3)
    assert all(value.dtype == dtype for value in moments(b).values())
    assert all(torch.isfinite(p).all() for p in other.params)


@native
@backends
def test_saving_copying_and_pickling_keep_the_bits(make: Make, backend: str) -> None:
    problem, other = Problem(dtype=torch.float32), Problem(dtype=torch.float32)
    optimizer = make(problem.params, state_dtype="bf16", backend=backend)
    problem.train(optimizer, 3)
    fresh = make(other.params, state_dtype="bf16", backend=backend)
    fresh.load_state_dict(save_and_open(optimizer.state_dict()))
    weights = problem.weights()
    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), fresh]
    problem.set_gradients(3)
    torch.manual_seed(4)
    optimizer.step()
    for twin in twins:
        params = [p for group in twin.param_groups for p in group["params"]]
        with torch.no_grad():
            for p, w, q in zip(params, weights, problem.params, strict=True):
                p.copy_(w)
                p.grad = q.grad
        torch.manual_seed(4)
        twin.step()
        assert_same([p.detach() for p in params], problem.weights())
        assert_same(twin.state_dict()["state"], optimizer.state_dict()["state"])


@some
@backends
def test_a_seed_repeats_the_rounding(name: str, backend: str) -> None:
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        problem = Problem(dtype=torch.float32)
        optimizer = NATIVE[name](problem.params, state_dtype="bf16", backend=backend)
        problem.train(optimizer, 4)
        results.append([problem.weights(), moments(optimizer)])
    assert_same(results[0], results[1])
    assert any(not torch.equal(a, results[2][1][key]) for key, a in results[0][1].items())  # type: ignore[call-overload]


@some
@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_float64_weights_keep_float64_moments(name: str, backend: str, dtype: torch.dtype) -> None:
    results = []
    for state_dtype in ("fp32", "bf16"):
        problem = Problem(dtype=dtype)
        optimizer = NATIVE[name](problem.params, state_dtype=state_dtype, backend=backend)
        for step in range(3):
            problem.set_gradients(step) if dtype == torch.float64 else _tilt(problem.params, step)
            optimizer.step()
        assert all(value.dtype == torch.float64 for value in moments(optimizer).values())
        results.append([problem.weights(), optimizer.state_dict()["state"]])
    assert_same(results[0], results[1])


@backends
def test_complex64_moments_are_pairs_of_bfloat16(backend: str) -> None:
    params = [torch.randn(4, 3, dtype=torch.complex64).requires_grad_()]
    optimizer = NATIVE["radam, relative L1"](params, state_dtype="bf16", backend=backend)
    _tilt(params, 0)
    optimizer.step()
    assert len(moments(optimizer)) == 3
    for value in moments(optimizer).values():
        assert value.dtype == torch.bfloat16
        assert value.shape == (4, 3, 2)


def _tilt(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


@backends
def test_state_that_an_option_asks_for_later_is_narrow_too(backend: str) -> None:
    problem = Problem(dtype=torch.float32)
    optimizer = NATIVE["adam, identity"](problem.params, state_dtype="bf16", backend=backend)
    problem.train(optimizer, 1)
    optimizer.param_groups[0].update(amsgrad=True, momentum=0.5)
    problem.train(optimizer, 1, first=1)
    added = [value for (_, name), value in moments(optimizer).items() if name in ("max_exp_avg_sq", "velocity")]
    assert len(added) == 2 * len(problem.params)
    assert all(value.dtype == torch.bfloat16 for value in added)


@native
@pytest.mark.parametrize("value", ["fp16", "float32", None, torch.bfloat16])
def test_another_value_is_named_with_the_choices(make: Make, value: Any) -> None:
    with pytest.raises(ValueError, match="state_dtype") as error:
        make(Problem().params, state_dtype=value)
    assert all(text in str(error.value) for text in (repr(value), "fp32", "bf16"))


@native
def test_a_group_cannot_have_its_own(make: Make) -> None:
    with pytest.raises(TypeError, match=r"'state_dtype'.*group 0"):
        make([{"params": Problem().params, "state_dtype": "bf16"}])
