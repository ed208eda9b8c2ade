"""Backends: where a step runs."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.backends import cpu, reference, triton
from layerpace.engine.backends.protocol import (
    Backend,
    DeviceBackend,
    FusedBackend,
    Gate,
    RowOptions,
    Velocity,
    Watch,
    Work,
)
from layerpace.engine.common.checks import check_choice
from layerpace.layers.base import ParameterLayers

NAMES = ("auto", "reference", "cpu", "triton")


def check(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend that this build has."""
    check_choice("backend", name, NAMES)
    if name == "triton":
        triton.check_available()
    if name == "cpu":
        cpu.compiled()


def select(
    name: str, param: Tensor, grad: Tensor, state: dict[str, Tensor], direction: Direction, layers: ParameterLayers
) -> Backend:
    """The backend of that name for one parameter; "auto" takes the fastest that can.

    Raises:
        RuntimeError: the device has no float64, which the sums over a layer are kept in.
    """
    if param.is_mps:
        raise RuntimeError("layerpace sums over layers in float64, which the device 'mps' does not have")
    if param.is_cpu and name in ("auto", "cpu") and not torch.compiler.is_compiling():
        cpu.warn_if_missing()
        if cpu.takes(param, grad, state, direction, layers):
            return cpu
    if (param.is_cuda or name == "triton") and name in ("auto", "triton") and not torch.compiler.is_compiling():
        triton.warn_if_missing()
        if triton.takes(param, grad, state, direction, layers):
            return triton
    if (name == "cpu" and not param.is_cpu) or (name == "triton" and not triton.reaches(param)):
        raise RuntimeError(f"backend={name!r} got a parameter on {param.device}: pass 'auto'")
    return reference


__all__ = [
    "NAMES",
    "Backend",
    "DeviceBackend",
    "FusedBackend",
    "Gate",
    "RowOptions",
    "Velocity",
    "Watch",
    "Work",
    "check",
    "cpu",
    "reference",
    "select",
    "triton",
]
