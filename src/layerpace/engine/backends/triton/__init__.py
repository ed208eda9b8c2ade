"""The backend of CUDA tensors: Triton kernels for every direction and rule; see docs/gpu.md.

triton is imported when the first of its functions is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.backends.programs import fits, has_built_in_clip, known_rule
from layerpace.engine.backends.protocol import Gate, RowOptions, Work
from layerpace.engine.backends.triton.library import (
    available,
    check_available,
    interprets,
    reaches,
    takes_together,
    warn_if_missing,
)
from layerpace.engine.numerics.columns import Constants
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Coefficients, Rule


def _module() -> Any:
    return import_module("layerpace.engine.backends.triton.calls")


def takes(param: Tensor, grad: Tensor, state: dict[str, Tensor], direction: Direction, layers: ParameterLayers) -> bool:
    """Whether the kernels can treat this parameter."""
    return reaches(param) and fits(param, grad, state, direction, layers)


def knows(rule: Rule) -> bool:
    """Whether the rule is built in, so that ``step`` can be called."""
    return known_rule(rule) and has_built_in_clip(rule)


def gradient_sums(work: Work, columns: tuple[str, ...]) -> Tensor:
    sums: Tensor = _module().gradient_sums(work, columns)
    return sums


def accumulate(work: Work, columns: tuple[str, ...], constants: Constants) -> Tensor:
    sums: Tensor = _module().accumulate(work, columns, constants)
    return sums


def apply(work: Work, c_L: Tensor | None, b_L: Tensor) -> None:
    _module().apply(work, c_L, b_L)


def look_ahead(works: Sequence[Work], options: Sequence[RowOptions], gate: Gate) -> None:
    """See `layerpace.engine.backends.protocol.DeviceBackend`."""
    _module().look_ahead(works, options, gate)


def step(
    work: Work, options: RowOptions, columns: tuple[str, ...], constants: Constants, gate: Gate
) -> tuple[Tensor, Coefficients, Tensor]:
    """See `layerpace.engine.backends.protocol.DeviceBackend`."""
    result: tuple[Tensor, Coefficients, Tensor] = _module().step(work, options, columns, constants, gate)
    return result


__all__ = [
    "accumulate",
    "apply",
    "available",
    "check_available",
    "gradient_sums",
    "interprets",
    "knows",
    "look_ahead",
    "reaches",
    "step",
    "takes",
    "takes_together",
    "warn_if_missing",
]
