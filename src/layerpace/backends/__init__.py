"""Backends: where a step runs."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.backends import cpu, reference
from layerpace.backends.protocol import Backend, FusedBackend, Velocity, Watch, Work
from layerpace.checks import check_choice
from layerpace.directions import Direction
from layerpace.layers import ParameterLayers

NAMES = ("auto", "reference", "cpu", "triton")


def check(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend that this build has."""
    check_choice("backend", name, NAMES)
    if name == "triton":
        raise ValueError("backend='triton' is not part of this build of layerpace: pass 'auto', 'cpu' or 'reference'")
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
    if name == "cpu" and not param.is_cpu:
        raise RuntimeError(f"backend='cpu' got a parameter on {param.device}: pass 'auto'")
    return reference


__all__ = ["NAMES", "Backend", "FusedBackend", "Velocity", "Watch", "Work", "check", "cpu", "reference", "select"]
