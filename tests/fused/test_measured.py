"""What a step adds up for monitors: sums of the moves of weights as they lie in memory; the step stays as it is."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused, needs_kernels
from tests.fused.cases import (
    BUILT_IN,
    DIRECTIONS,
    LARGE,
    SMALL,
    D,
    R,
    all_dtypes,
    copies,
    directions,
    optimizer,
    rules,
    train,
    weights,
)
from tests.methods import assert_same
from torch import Tensor

from layerpace.engine.numerics.columns import MEASURED
from layerpace.engine.numerics.precision import compute_dtype

pytestmark = needs_fused

SHAPES = {**SMALL, **LARGE}
SUMS = {
    "ww": lambda w, d, g: (w * w).sum(),
    "w_l1": lambda w, d, g: w.abs().sum(),
    "gg": lambda w, d, g: (g * g).sum(),
    "dd": lambda w, d, g: (d * d).sum(),
    "wd": lambda w, d, g: (w * d).sum(),
    "d_l1": lambda w, d, g: d.abs().sum(),
}


def working(method: torch.optim.Optimizer, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a step computes with."""
    found = {}
    for name, p in params.items():
        master = method.state[p].get("master") if p in method.state else None
        found[name] = (p if master is None else master).detach().to(torch.float64, copy=True)
    return found


def measured(method: Any) -> dict[str, Tensor]:
    """The sums of the last step, float64 [6] by layer."""
    plan = method._cache.plan
    rows = torch.cat([part.measured for part in plan.parts])
    names = [n for part in plan.parts for work in part.works for cut in work.layers for n in cut.layer_names]
    return dict(zip(names, rows, strict=True))


def pieces(method: Any, params: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors cut into layers."""
    found = {}
    for name, p in params.items():
        cut, x = method.layers[p], tensors[name]
        parts = [x] if cut.sizes is None else torch.split(x, list(cut.sizes))
        found.update(zip(cut.layer_names, parts, strict=True))
    return found


def check(method: Any, params: dict[str, Tensor], rtol: float) -> None:
    """Two steps, whose sums are those of copies of the weights."""
    method._cache.readers.add(0)
    train(method, params, 1)
    for step in (1, 2):
        before = working(method, params)
        train(method, params, 1, first=step)
        old, new = (pieces(method, params, x) for x in (before, working(method, params)))
        grads = pieces(method, params, {n: p.grad.double() for n, p in params.items() if p.grad is not None})
        found = measured(method)
        assert found.keys() == old.keys()
        for name, sums in found.items():
            w, d, g = old[name], old[name] - new[name], grads[name]
            for column, got in zip(MEASURED, sums, strict=True):
                expected = SUMS[column](w, d, g)
                # Where terms cancel, or nothing but the last bit moves, the error is one of the terms.
                terms = (w * d).abs().sum() if column == "wd" else expected
                torch.testing.assert_close(got, expected, rtol=0, atol=float(rtol * terms), msg=f"{column} of {name}")


@directions
@all_dtypes
def test_every_direction(direction: str, dtype: torch.dtype) -> None:
    rule = BUILT_IN[sum(map(ord, direction)) % len(BUILT_IN)]
    params = weights(SHAPES, dtype)
    check(optimizer(FUSED, params, DIRECTIONS[direction], rule), params, tolerance(dtype))


@rules
@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_every_rule_and_velocity(rule: str, momentum: dict[str, Any]) -> None:
    if rule == "rotation" and momentum:
        pytest.skip("a rotation has its momentum in the direction")
    params = weights(SHAPES, torch.float32)
    check(optimizer(FUSED, params, D.Adam(), rule, **momentum), params, 3e-7)


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1}, {"maximize": True}, {"exclude": ["vector", "4099"]}], ids=str
)
@pytest.mark.parametrize("direction", [D.SGD(), D.Adam(), D.HeavyBall()], ids=lambda d: type(d).__name__)
def test_options(direction: D.Direction, options: dict[str, Any]) -> None:
    for decoupled in (False, True) if "weight_decay" in options else (None,):
        params = weights(SHAPES, torch.float32)
        more = options if decoupled is None else {**options, "decoupled_weight_decay": decoupled}
        check(optimizer(FUSED, params, direction, "trust ratio", **more), params, 3e-7)


@pytest.mark.parametrize("mode", ["plain", "stochastic", "master"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16"])
def test_half_precision(mode: str, dtype: torch.dtype, state_dtype: str) -> None:
    params = weights(SHAPES, dtype)
    options = {"low_precision": mode, "state_dtype": state_dtype}
    check(optimizer(FUSED, params, D.Adam(), "trust ratio", **options), params, 3e-7)


def test_calls_one_by_one_measure_the_same() -> None:
    """A rule of the user's own takes accumulate and apply apart."""

    class Own(R.TrustRatio):
        names = ()

    for direction in (D.SGD(), D.Adam()):
        found = []
        for rule in (R.TrustRatio(), Own()):
            params = weights(SHAPES, torch.float32)
            method = optimizer(FUSED, params, direction, rule, lr=0.01)
            check(method, params, 3e-7)
            found.append(measured(method))
        assert_same(*found)


@rules
def test_measuring_leaves_the_step_as_it_is(rule: str) -> None:
    ends = []
    for measure in (False, True):
        params = weights(SHAPES, torch.float32)
        method = optimizer(FUSED, params, D.Adam(), rule)
        method._cache.readers = {0} if measure else set()
        train(method, params, 3)
        ends.append((copies(params), dict(method.state_dict()["state"])))
    assert_same(*ends)


@needs_kernels
@pytest.mark.parametrize("rule", BUILT_IN)
@all_dtypes
def test_the_same_bits_anywhere(rule: str, dtype: torch.dtype) -> None:
    native = importlib.import_module("layerpace.engine.backends.cpu._native")
    found = []
    for instruction_set in native.instruction_sets():
        for threads in (1, 2, 3):
            native.use_instruction_set(instruction_set)
            torch.set_num_threads(threads)
            params = weights(SHAPES, dtype)
            method = optimizer(FUSED, params, D.Adam(), rule, low_precision="plain")
            method._cache.readers.add(0)
            train(method, params, 2)
            found.append(measured(method))
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize("backend", [FUSED, "reference"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_that_the_device_decides_on(backend: str, momentum: float) -> None:
    params = weights(SHAPES, torch.float32)
    method = optimizer(backend, params, D.SGD(), "trust ratio", nonfinite="skip", momentum=momentum)
    check(method, params, 3e-7)


def test_layers_that_are_held_back_are_not_measured() -> None:
    for backend in (FUSED, "reference"):
        params = weights(SHAPES, torch.float32)
        method = optimizer(backend, params, D.Adam(), "trust ratio", nonfinite="skip")
        method._cache.readers.add(0)
        train(method, params, 1)
        params["300007"].grad[7] = torch.nan
        method.step()
        found = measured(method)
        assert found["300007"].isnan().all()
        assert not any(sums.isnan().any() for name, sums in found.items() if name != "300007")


def tolerance(dtype: torch.dtype) -> float:
    return 1e-13 if compute_dtype(dtype) == torch.float64 else 3e-7
