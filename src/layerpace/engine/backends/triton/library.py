"""Triton, which comes with torch's CUDA builds, and is imported when a CUDA tensor is stepped."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from layerpace.engine.backends.programs import program
from layerpace.engine.backends.protocol import Work

MISSING = (
    "the fused GPU step of layerpace needs the package triton, which torch's CUDA builds for Linux bring along: "
    "pip install triton"
)


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether triton is installed."""
    return find_spec("triton") is not None


@lru_cache(maxsize=1)
def interprets() -> bool:
    """Whether the kernels run in Triton's interpreter, on tensors of the CPU: slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes", "y") and available()


def check_available() -> None:
    """Raise RuntimeError unless triton is installed."""
    if not available():
        raise RuntimeError(MISSING)


@lru_cache(maxsize=1)
def warn_if_missing() -> None:
    """Say once a process that steps on a GPU are slower than they could be."""
    if not available():
        warnings.warn(f"{MISSING}. Until then steps take several times as long", stacklevel=2)


def takes_together(work: Work) -> bool:
    """Whether the tensors of a bucket have one dtype of moments, and no memory in common that is written."""
    names = [*program(work.direction).moments, *["velocity"] * (work.velocity is not None)]
    if len({state[name].dtype for state in work.state for name in names}) > 1:
        return False
    ranges: list[tuple[int, int, bool]] = []
    for param, grad, state in zip(work.params, work.grads, work.state, strict=True):
        written = [param, *(x for x in state.values() if x.shape == param.shape and x.device == param.device)]
        ranges += [(x.data_ptr(), x.data_ptr() + x.nbytes, True) for x in written if x.numel()]
        ranges += [(grad.data_ptr(), grad.data_ptr() + grad.nbytes, False)] if grad.numel() else []
    end = written_end = 0
    for first, last, is_written in sorted(ranges):
        if first < (end if is_written else written_end):
            return False
        end = max(end, last)
        written_end = max(written_end, last) if is_written else written_end
    return True


def reaches(param: Tensor) -> bool:
    """Whether the kernels can run where the tensor is: on an NVIDIA GPU, or on the CPU if they are interpreted."""
    if not available():
        return False
    if interprets():  # which reads memory by its addresses
        return param.is_cpu
    return param.is_cuda and _runs_kernels(param.device)


@lru_cache(maxsize=64)
def _runs_kernels(device: torch.device) -> bool:
    """Whether Triton compiles for this GPU, and these kernels were compiled for its kind."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (7, 0)
