"""Runs of small tensors by the kernels and by the reference, which must end alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tests.fused.cases import (
    SMALL,
    Outcome,
    assert_agree,
    copies,
    outcome,
    reference_forbidden,
    weights,
)
from tests.gpu_step import DEVICE
from torch import Tensor

# One of each kind that the kernels tell apart: empty, 0-d, a tail, other strides, zeros, equal and unequal segments.
FEW = {name: SMALL[name] for name in ("empty", "scalar", "17", "conv", "zeros", "unequal")}

Play = Callable[[str, dict[str, Tensor]], torch.optim.Optimizer]


def played(backend: str, play: Play, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Outcome:
    """Let ``play`` make an optimizer of this backend for fresh tensors, and train them."""
    on_device = {name: w.detach().to(DEVICE).requires_grad_() for name, w in weights(shapes, dtype).items()}
    start = copies(on_device)
    return outcome(start, on_device, play(backend, on_device))


def assert_same(
    play: Play,
    *,
    shapes: Mapping[str, tuple[int, ...]] = FEW,
    dtype: torch.dtype = torch.float64,
    forbidden: bool = True,
    **tolerance: Any,
) -> None:
    """Both backends end alike; unless the rule is Python's, the reference must not have done the kernels' work."""
    expected = played("reference", play, shapes, dtype)
    if forbidden:
        with reference_forbidden():
            got = played("triton", play, shapes, dtype)
    else:
        got = played("triton", play, shapes, dtype)
    assert_agree(got, expected, **tolerance)
