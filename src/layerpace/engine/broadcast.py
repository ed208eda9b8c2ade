"""One number a layer, and tensors that broadcast over the parameters: from one to the other.

A parameter that is one layer has a 0-d tensor; one that segments cut has a tensor of shape (rows, 1, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.common.fake import has_values
from layerpace.engine.numerics.tensors import Scalar, Tensors
from layerpace.layers.base import ParameterLayers


def slices(counts: Sequence[int]) -> list[slice]:
    """The ranges of consecutive parts of these sizes."""
    ends = list(accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def spread(x_L: Tensor, layers: list[ParameterLayers], like: Tensors) -> Tensors:
    """One number a layer -> tensors that broadcast over the parameters: 0-d, or (rows, 1, ...) for segments."""
    x_L = x_L if x_L.dtype == torch.bool else x_L.to(like.dtype)
    if all(cut.sizes is None for cut in layers):
        return Tensors(x_L.unbind())
    out = []
    for values, cut, w in zip(torch.split(x_L, [cut.count for cut in layers]), layers, like, strict=True):
        if cut.sizes is None:
            out.append(values[0])
        else:
            rows = values.index_select(0, _rows(_segment_of_row, cut.sizes, values))
            out.append(rows.reshape(cut.broadcast_shape(w.shape)))
    return Tensors(out)


def by_layer(x: Scalar, layers: list[ParameterLayers], device: torch.device) -> Tensor:
    """A number, or tensors that broadcast over the parameters -> one number a layer, float64 [layers]."""
    if not isinstance(x, Tensors):
        return torch.full((sum(cut.count for cut in layers),), x, dtype=torch.float64, device=device)
    parts = []
    for cut, values in zip(layers, x, strict=True):
        flat = values.to(device, torch.float64).reshape(-1)
        parts.append(flat if cut.sizes is None else flat.index_select(0, _rows(_first_row, cut.sizes, flat)))
    return torch.cat(parts)


def _rows(of: Any, sizes: tuple[int, ...], like: Tensor) -> Tensor:
    """`_segment_of_row` or `_first_row`, kept from step to step; not those of a fake mode, to which they belong."""
    found: Tensor = (of if has_values(like) else of.__wrapped__)(sizes, like.device)
    return found


@lru_cache(maxsize=1024)
def _segment_of_row(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The segment that each row belongs to, int64 [rows]; made once, so that a step copies no list to the device."""
    segments = [segment for segment, size in enumerate(sizes) for _ in range(size)]
    return torch.tensor(segments, device="cpu").to(device)


@lru_cache(maxsize=1024)
def _first_row(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The first row of each segment, int64 [segments]."""
    return torch.tensor([part.start for part in slices(sizes)], device="cpu").to(device)
