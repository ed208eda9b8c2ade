"""Backends: where a step runs."""

from __future__ import annotations

import torch

from layerpace.backends import reference
from layerpace.backends.protocol import Backend, Velocity, Work
from layerpace.checks import check_choice

NAMES = ("auto", "reference", "cpu", "triton")


def check(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend that this build has."""
    check_choice("backend", name, NAMES)
    if name in ("cpu", "triton"):
        raise ValueError(f"backend={name!r} is not part of this build of layerpace: pass 'auto' or 'reference'")


def select(name: str, device: torch.device) -> Backend:
    """The backend of that name for tensors on the device; "auto" takes the fastest that there is.

    Raises:
        RuntimeError: the device has no float64, which the sums over a layer are kept in.
    """
    if device.type == "mps":
        raise RuntimeError("layerpace sums over layers in float64, which the device 'mps' does not have")
    return reference


__all__ = ["NAMES", "Backend", "Velocity", "Work", "check", "reference", "select"]
