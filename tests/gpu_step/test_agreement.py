"""The kernels equal the reference to rounding: every direction and every rule, with what else changes a kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fused.cases import (
    COUPLED_ONLY,
    DIRECTIONS,
    RULES,
    assert_agree,
    copies,
    optimizer,
    outcome,
    train,
    weights,
)
from tests.gpu_step import DEVICE, needs_triton
from tests.gpu_step.cases import FEW, assert_same
from torch import Tensor

pytestmark = needs_triton

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _number(*names: str) -> int:
    return sum(map(ord, "".join(names)))


def _agree(direction: str, rule: str, dtype: torch.dtype, still: tuple[str, ...] = (), **options: Any) -> None:
    count = 8 if direction.startswith("radam") else 2  # RAdam is adaptive from the sixth step on

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS[direction], rule, **options)
        train(method, params, count)
        return method

    plain = options.get("low_precision") == "plain" and dtype in (torch.bfloat16, torch.float16)
    assert_same(play, dtype=dtype, still=still, loose=50 if plain else 1)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_direction(direction: str) -> None:
    """With a rule, a dtype and a way to keep weights that change from case to case."""
    number = _number(direction)
    rule = tuple(RULES)[number % len(RULES)]
    decay = 0.1 if number % 3 == 0 and rule not in COUPLED_ONLY else 0.0
    _agree(
        direction,
        rule,
        DTYPES[number % 4],
        low_precision=("master", "plain")[number // 4 % 2],
        weight_decay=decay,
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str) -> None:
    number = _number(rule)
    direction = ("adam", "sgd", "nesterov", "adadelta", "nadam")[number % 5]
    decoupled = None if rule in COUPLED_ONLY else number % 2 == 0
    _agree(
        direction,
        rule,
        DTYPES[number % 2],
        weight_decay=0.1,
        decoupled_weight_decay=decoupled,
        maximize=number % 4 == 0,
    )


VELOCITIES: tuple[dict[str, Any], ...] = (
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": None},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "lr_in_velocity": False},
    {"momentum": 0.9, "nesterov": True, "lr_in_velocity": False},
)


@pytest.mark.parametrize("velocity", VELOCITIES, ids=str)
@pytest.mark.parametrize("rule", ["identity", "trust ratio"])
def test_momentum_after_the_rule(rule: str, velocity: dict[str, Any]) -> None:
    _agree("sgd", rule, torch.float64, weight_decay=0.05, **velocity)


@pytest.mark.parametrize("rule", ["identity", "trust ratio", "rotation", "percent delta"])
@pytest.mark.parametrize("exclude", [None, "everything", "some"])
def test_excluded_tensors(rule: str, exclude: str | None) -> None:
    """They are stepped in one pass, beside others in two."""
    globs = {None: None, "everything": "*", "some": ["conv", "17"]}[exclude]
    still = ("scalar",) if rule == "rotation" and exclude != "everything" else ()  # has no direction to turn in
    _agree("adam", rule, torch.float64, still=still, exclude=globs, weight_decay=0.05)


@pytest.mark.parametrize("rule", ["trust ratio", "relative L1", "trust ratio falling"])
def test_layers_of_many_chunks(rule: str) -> None:
    """With tails; a layer that one program steps beside those of many; segments that begin anywhere."""
    shapes = {"one": (4096, 1), "more": (1, 4099), "unequal": (7, 1501), "17": (17, 1)}

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS["adadelta" if rule == "relative L1" else "adam"], rule)
        train(method, params, 2)
        return method

    assert_same(play, shapes=shapes, forbidden=rule != "trust ratio falling")


def test_groups_and_dtypes_side_by_side() -> None:
    results = []
    for backend in ("reference", "triton"):
        params = {f"wide {name}": w for name, w in weights(FEW).items()}
        params |= {f"half {name}": w for name, w in weights(FEW, torch.bfloat16, seed=1).items()}
        params = {name: w.detach().to(DEVICE).requires_grad_() for name, w in params.items()}
        start, names = copies(params), list(params)
        method = optimizer(backend, {name: params[name] for name in names[:4]}, DIRECTIONS["adam"], "trust ratio")
        for part, options in (
            (names[4:9], {"lr": 0.005, "betas": (0.5, 0.7), "weight_decay": 0.1, "lr_multiplier": 0.5}),
            (names[9:], {"maximize": True, "momentum": 0.9}),
        ):
            method.add_param_group({"params": [(name, params[name]) for name in part], **options})
        train(method, params, 3)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_written_from_outside_count(dtype: torch.dtype) -> None:
    """And not the master copy, whose rounding they are no more."""

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS["sgd"], "trust ratio")
        train(method, params, 1)
        params["17"].data.mul_(1.5)
        params["conv"].data[0] = 0.25
        train(method, params, 1, first=1)
        return method

    assert_same(play, dtype=dtype)


def test_the_ratio_of_a_step_that_decay_cancels() -> None:
    """u + lambda*w is zero where u is not: the ratio is the one of a zero."""
    ratios = []
    for backend in ("reference", "triton"):
        w = torch.full((3, 4), 2.0, device=DEVICE).requires_grad_()
        method: Any = optimizer(backend, {"w": w}, DIRECTIONS["sgd"], "trust ratio zero", weight_decay=0.5)
        w.grad = torch.full((3, 4), -1.0, device=DEVICE)
        method.step()
        ratios.append(float(method._cache.plan.coefficients.ratio))
    assert ratios == [1.0, 1.0]
