"""Sums over how far tensors have moved: compiled for CPUs, a few launches for all tensors elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from layerpace.engine.backends import reference
from layerpace.engine.backends.cpu import native
from layerpace.engine.backends.programs import memory_order
from layerpace.engine.numerics.columns import Constants
from layerpace.engine.numerics.precision import compute_dtype
from layerpace.engine.numerics.tensors import Tensors
from layerpace.layers.base import ParameterLayers

_WHOLE = ParameterLayers("")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # that the compiled module takes
_PLAIN = (Tensor, torch.nn.Parameter)  # its types: what others do with their memory is their own
_MOVES = 5
_TOGETHER = 1 << 26  # entries that are subtracted at once, elsewhere than on a CPU: 256 MiB


def moves(old: Sequence[Tensor], new: Sequence[Tensor]) -> Tensor:
    """<w, w>, |w|_1, <d, d>, <w, d>, |d|_1 of each pair, with w = old and d = old - new.

    Args:
        old, new: real tensors of any floating dtype, pairwise of one shape; ``old`` may be on another device, and of
            another dtype.

    Raises:
        ValueError: a pair of two shapes.

    Returns:
        float64 [tensors, 5], on the device of ``new``.
    """
    for a, b in zip(old, new, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"weights of shape {tuple(a.shape)} have become {tuple(b.shape)}: no move leads there")
    if not new[0].is_cpu:
        return torch.cat([_moves_by_norms(old[part], new[part]) for part in _parts(new)])
    compiled = native()

    def fast(places: Sequence[int], table: Tensor) -> None:
        a, b = [old[i] for i in places], [new[i] for i in places]
        compiled.sum_moves(a, b, torch.get_num_threads(), table)  # type: ignore[union-attr]

    def plain(place: int) -> Tensor:
        a, b = old[place].to(new[place].device, non_blocking=True), new[place]
        dtype = compute_dtype(b.dtype)
        return reference.moves(Tensors([a.to(dtype)]), Tensors([b.to(dtype)]), [_WHOLE])[0]

    kinds = [_kind(a, b) if compiled is not None else None for a, b in zip(old, new, strict=True)]
    return _by_kind(kinds, _MOVES, new[0].device, fast, plain)


def copy(tensors: Sequence[Tensor], to: Sequence[Tensor]) -> None:
    """Copy tensors to others of the same kind and layout, pairwise."""
    compiled = native()
    fast = [(a, b) for a, b in zip(tensors, to, strict=True) if compiled and _can_be_copied(a, b)]
    if fast:
        threads = torch.get_num_threads()
        compiled.copy_tensors([a for a, _ in fast], [b for _, b in fast], threads)  # type: ignore[union-attr]
    done = {id(a) for a, _ in fast}
    for a, b in zip(tensors, to, strict=True):
        if id(a) not in done:
            b.copy_(a)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """<x, x> of each real tensor: float64 [tensors]."""
    if not tensors[0].is_cpu:
        return _norms(tensors, 2).square()
    compiled = native()

    def fast(places: Sequence[int], table: Tensor) -> None:
        x = [tensors[i] for i in places]
        compiled.sum_squares(x, torch.get_num_threads(), table)  # type: ignore[union-attr]

    def plain(place: int) -> Tensor:
        wide = Tensors([tensors[place].to(compute_dtype(tensors[place].dtype))])
        return reference.sums(wide, wide, [_WHOLE], ("uu",), Constants())[0]

    kinds = [_kind(x, x) if compiled is not None else None for x in tensors]
    return _by_kind(kinds, 1, tensors[0].device, fast, plain)[:, 0]


def _moves_by_norms(old: Sequence[Tensor], new: Sequence[Tensor]) -> Tensor:
    """`moves` by norms of many tensors at once: <w, d> is what is left of ||w||² + ||d||² - ||w - d||²."""
    dtypes = [compute_dtype(b.dtype) for b in new]
    a = [x.to(b.device, dtype, non_blocking=True) for x, b, dtype in zip(old, new, dtypes, strict=True)]
    b = [x.to(dtype) for x, dtype in zip(new, dtypes, strict=True)]
    d = torch._foreach_sub(a, b)
    ww, dd, after = (_norms(x, 2).square() for x in (a, d, b))
    return torch.stack([ww, _norms(a, 1), dd, (ww + dd - after) / 2, _norms(d, 1)], 1)


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    """float64 [tensors], summed in float64."""
    return torch.stack(torch._foreach_norm(list(tensors), order, dtype=torch.float64))


def _parts(tensors: Sequence[Tensor]) -> list[slice]:
    """Consecutive tensors with at most ``_TOGETHER`` entries, or one."""
    bounds, entries = [0], 0
    for place, x in enumerate(tensors):
        entries += x.numel()
        if entries > _TOGETHER and place > bounds[-1]:
            bounds.append(place)
            entries = x.numel()
    return [slice(begin, end) for begin, end in zip(bounds, [*bounds[1:], len(tensors)], strict=True)]


def _kind(a: Tensor, b: Tensor) -> Hashable:
    """What tensors must share to be taken together by the compiled module; None: it cannot take them."""
    if type(a) not in _PLAIN or type(b) not in _PLAIN or a.is_neg() or b.is_neg():
        return None
    if not (a.is_cpu and b.is_cpu and a.dtype in _DTYPES and b.dtype in _DTYPES):
        return None
    if (a.dtype == torch.float64) != (b.dtype == torch.float64) or a.numel() == 0:
        return None
    if a.is_contiguous() and b.is_contiguous():
        return a.dtype, b.dtype
    order = memory_order(b)
    return (a.dtype, b.dtype) if order is not None and order == memory_order(a) else None


def _can_be_copied(a: Tensor, b: Tensor) -> bool:
    """Whether the memory of one is that of the other, byte for byte."""
    if type(a) not in _PLAIN or type(b) not in _PLAIN or a.is_neg() or a.is_conj():
        return False
    return a.is_cpu and b.is_cpu and a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous() and a.numel() > 0


def _by_kind(
    kinds: Sequence[Hashable],
    columns: int,
    device: torch.device,
    fast: Callable[[Sequence[int], Tensor], None],
    plain: Callable[[int], Tensor],
) -> Tensor:
    """float64 [tensors, columns]: by ``fast``, all those of a kind at once, or by ``plain``, one by one."""
    together: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        together.setdefault(kind, []).append(place)
    if len(together) == 1 and None not in together:
        table = torch.empty(len(kinds), columns, dtype=torch.float64, device="cpu")
        fast(range(len(kinds)), table)
        return table
    out = torch.empty(len(kinds), columns, dtype=torch.float64, device=device)
    for kind, places in together.items():
        if kind is None:
            out[places] = torch.stack([plain(place) for place in places])
        else:
            table = torch.empty(len(places), columns, dtype=torch.float64, device="cpu")
            fast(places, table)
            out[places] = table
    return out
