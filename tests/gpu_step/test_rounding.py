"""Rounding to 16 bits at random: exact in the mean, the same bits again, and going on where a saved run was."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.fused.cases import DIRECTIONS, optimizer
from tests.gpu_step import DEVICE, needs_triton
from torch import Tensor

from layerpace.engine.numerics.precision import SEED

pytestmark = needs_triton

STOCHASTIC: dict[str, Any] = {"low_precision": "stochastic", "state_dtype": "bf16"}


def trained(dtype: torch.dtype, count: int, weight: float = 1.0, lr: float = 2.0**-12, n: int = 4096) -> Tensor:
    """Weights after steps that are far smaller than their resolution."""
    params = {"w": torch.full((n, 1), weight, dtype=dtype, device=DEVICE).requires_grad_()}
    method = optimizer("triton", params, DIRECTIONS["sgd"], "identity", lr=lr, low_precision="stochastic")
    for _ in range(count):
        params["w"].grad = torch.ones_like(params["w"])
        method.step()
    return params["w"].detach().double()


@pytest.mark.parametrize(("dtype", "lr"), [(torch.bfloat16, 2.0**-12), (torch.float16, 2.0**-13)])
def test_small_steps_are_exact_in_the_mean(dtype: torch.dtype, lr: float) -> None:
    """A step of 1/16 or 1/4 of the spacing below 1: each entry moves by all of it or not at all."""
    torch.manual_seed(0)
    after = trained(dtype, 1, lr=lr)
    spacing = torch.finfo(dtype).eps / 2
    assert set(after.unique().tolist()) == {1.0, 1.0 - spacing}
    share = lr / spacing
    moved = float((after < 1).double().mean())
    assert abs(moved - share) < 5 * (share * (1 - share) / after.numel()) ** 0.5


@pytest.mark.parametrize("weight", [2.0**-17, 3 * 2.0**-24])
def test_subnormal_float16(weight: float) -> None:
    torch.manual_seed(0)
    after = trained(torch.float16, 1, weight=weight, lr=2.0**-26)
    assert set(after.unique().tolist()) == {weight, weight - 2.0**-24}
    assert abs(float((after < weight).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 4096) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_needs_no_rounding_stays(dtype: torch.dtype) -> None:
    values = [0.0, -0.0, 1.0, -1.5, float("inf"), -float("inf"), float("nan"), torch.finfo(dtype).max, 2.0**-24]
    start = torch.tensor(values, dtype=dtype, device=DEVICE)
    params = {"w": start.clone().requires_grad_()}
    method = optimizer("triton", params, DIRECTIONS["sgd"], "identity", lr=1.0, low_precision="stochastic")
    params["w"].grad = torch.zeros_like(start)
    method.step()
    torch.testing.assert_close(params["w"].detach(), start, rtol=0, atol=0, equal_nan=True)


def test_entries_and_steps_and_tensors_draw_numbers_of_their_own() -> None:
    """Halves of the spacing: of two tensors, two steps and two halves of a tensor, about half agree."""
    torch.manual_seed(0)
    params = {name: torch.ones(4096, 1, dtype=torch.bfloat16, device=DEVICE).requires_grad_() for name in "ab"}
    method = optimizer("triton", params, DIRECTIONS["sgd"], "identity", lr=2.0**-9, low_precision="stochastic")
    moved = []
    for _ in range(2):
        for p in params.values():
            p.data.fill_(1.0)
            p.grad = torch.ones_like(p)
        method.step()
        moved += [(p.detach() < 1).flatten() for p in params.values()]
    moved += [moved[0].roll(2048), moved[0].roll(1)]
    for k, one in enumerate(moved):
        assert abs(float(one.double().mean()) - 0.5) < 0.04
        for other in moved[:k]:
            assert abs(float((one == other).double().mean()) - 0.5) < 0.06


def _params() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = {name: torch.randn(40, 30, generator=generator) for name in ("a", "b")}
    return {name: w.to(DEVICE, torch.bfloat16).requires_grad_() for name, w in values.items()}


def _steps(method: Any, params: dict[str, Tensor], first: int, last: int) -> None:
    for step in range(first, last):
        for name, p in params.items():
            generator = torch.Generator().manual_seed(step * 10 + len(name))
            p.grad = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
        method.step()


def test_a_saved_run_goes_on_with_its_random_numbers() -> None:
    torch.manual_seed(1)
    params = _params()
    method: Any = optimizer("triton", params, DIRECTIONS["adam"], "trust ratio", **STOCHASTIC)
    _steps(method, params, 0, 2)
    saved, weights = io.BytesIO(), {name: p.detach().clone() for name, p in params.items()}
    torch.save(method.state_dict(), saved)
    _steps(method, params, 2, 4)

    torch.manual_seed(99)  # another generator's state must not matter
    again = {name: w.clone().requires_grad_() for name, w in weights.items()}
    resumed: Any = optimizer("triton", again, DIRECTIONS["adam"], "trust ratio", **STOCHASTIC)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    _steps(resumed, again, 2, 4)
    for name, p in params.items():
        assert torch.equal(again[name], p)
        assert torch.equal(resumed.state[again[name]][SEED], method.state[p][SEED])
        for key, value in method.state[p].items():
            assert torch.equal(resumed.state[again[name]][key], value), key


def test_torch_manual_seed_repeats_a_run() -> None:
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        params = _params()
        method = optimizer("triton", params, DIRECTIONS["adam"], "trust ratio", **STOCHASTIC)
        _steps(method, params, 0, 2)
        found.append(params["a"].detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_copy_has_the_seed() -> None:
    params = _params()
    method: Any = optimizer("triton", params, DIRECTIONS["adam"], "trust ratio", **STOCHASTIC)
    _steps(method, params, 0, 1)
    twin = copy.deepcopy(method)
    assert [int(state[SEED]) for state in twin.state.values()] == [int(s[SEED]) for s in method.state.values()]


@pytest.mark.parametrize("rule", ["trust ratio", "identity"])
def test_moments_in_bfloat16_follow_those_in_float32(rule: str) -> None:
    """Over many steps their mean error is far below the resolution of bfloat16, which rounding to nearest loses."""
    torch.manual_seed(0)
    found = {}
    for state_dtype in ("fp32", "bf16"):
        params = {"w": torch.ones(4096, 1, device=DEVICE).requires_grad_()}
        method: Any = optimizer("triton", params, DIRECTIONS["ema"], rule, lr=1e-4, state_dtype=state_dtype)
        for _ in range(6):
            params["w"].grad = torch.full_like(params["w"], 0.7)
            method.step()
        found[state_dtype] = method.state[params["w"]]["exp_avg"].double()
    assert found["bf16"].unique().numel() > 1
    error = float((found["bf16"] - found["fp32"]).mean().abs())
    assert error < 1e-4 * float(found["fp32"].mean())


@pytest.mark.parametrize("direction", ["adam", "adadelta", "nesterov"])
def test_what_moves_the_weights_is_not_rounded(direction: str) -> None:
    """The first step makes its u of moments before they are rounded, in both passes."""
    found = []
    for state_dtype in ("fp32", "bf16"):
        params = {"w": torch.linspace(0.5, 2.0, 600, device=DEVICE).reshape(30, 20).requires_grad_()}
        options: dict[str, Any] = {"state_dtype": state_dtype, "lr": 0.01}
        method = optimizer("triton", params, DIRECTIONS[direction], "trust ratio", **options)
        params["w"].grad = torch.linspace(-3, 1, 600, device=DEVICE).reshape(30, 20)
        method.step()
        found.append(params["w"].detach().clone())
    assert torch.equal(found[0], found[1])
