"""Curves thinned to what a screen can show, with their extremes, and packed as text for a page.

A chart 600 pixels wide cannot show 1000 values a layer, but it must not lose the one step that went wrong. So of every
interval of records a curve keeps its lowest value, its highest, the first that is not finite, and, where it was not
measured for a while, one nan, which breaks the line. The first and the last value stay too.
"""

from __future__ import annotations

import base64
import ctypes

import torch
from torch import Tensor


def breaks(values: Tensor) -> Tensor:
    """Where a line is to be broken: entries that were not measured, though the neighbours in time were.

    A curve may be measured at every second record by design (two optimizers in turn, the cosine distance), so a gap
    counts from one and a half times the usual distance.

    Args:
        values: [R, L]; nan: not measured.

    Returns:
        bool [R, L], true at one nan within each gap.
    """
    marks = torch.zeros_like(values, dtype=torch.bool)
    for layer in range(values.shape[1]):
        (measured,) = torch.nonzero(~torch.isnan(values[:, layer]), as_tuple=True)
        if len(measured) < 3:
            continue
        apart = measured.diff()
        marks[measured[:-1][apart > 1.5 * apart.median()] + 1, layer] = True
    return marks


def keep(values: Tensor, points: int) -> Tensor:
    """Which entries of each curve to show.

    Args:
        values: [R, L], curves in columns; nan: not measured, inf: not finite.
        points: finite values of a curve to keep, about; at least 2.

    Returns:
        bool [R, L].
    """
    records, layers = values.shape
    gaps = breaks(values)
    measured = ~torch.isnan(values)
    if records <= points:
        return measured | gaps
    buckets = max(1, points // 2)
    size = -(-records // buckets)
    short = buckets * size - records

    def split(x: Tensor, fill: float) -> Tensor:
        return torch.cat([x, x.new_full((short, layers), fill)]).view(buckets, size, layers)

    finite = torch.isfinite(values)
    chosen = torch.zeros(buckets * size, layers, dtype=torch.bool, device="cpu").view(buckets, size, layers)
    for within, score in (
        (finite, values),
        (finite, -values),
        (measured & ~finite, torch.ones_like(values)),
        (gaps, torch.ones_like(values)),
    ):
        best = split(torch.where(within, score, -torch.inf), -torch.inf)
        top = best.max(dim=1, keepdim=True)
        chosen.scatter_(1, top.indices, (top.values > -torch.inf) | chosen.gather(1, top.indices))
    kept = chosen.view(-1, layers)[:records].clone()
    for order in (measured, measured.flip(0)):  # the first and the last measured one
        place = order.to(torch.uint8).argmax(0)
        place = place if order is measured else records - 1 - place
        kept[place, torch.arange(layers, device="cpu")] |= measured.any(0)
    return kept


def pack(x: Tensor) -> str:
    """The bytes of a CPU tensor, little-endian, as base64."""
    x = x.contiguous()
    return base64.b64encode(ctypes.string_at(x.data_ptr(), x.numel() * x.element_size())).decode() if x.numel() else ""


def pack_curves(values: Tensor, points: int, steps: Tensor) -> dict[str, str | bool]:
    """Thinned curves.

    Args:
        values: [R, L].
        points: see `keep`.
        steps: float64 [R].

    Returns:
        base64 of ``steps`` (of the records that some curve keeps a value of), ``counts`` (int32 [L], points of each
        curve), ``places`` (among those steps: uint16, or int32 if ``wide``) and ``values`` (float32), the curves one
        after the other.
    """
    kept = keep(values, points)
    some = kept.any(1)
    steps, values, kept = steps[some], values[some].T, kept[some].T
    wide = len(steps) > 2**16
    rows = torch.arange(len(steps), dtype=torch.int32, device="cpu").expand(len(values), -1)
    places = rows[kept].contiguous()
    return {
        "steps": pack(steps),
        "counts": pack(kept.sum(1).to(torch.int32)),
        "places": pack(places if wide else places.view(torch.int16)[::2]),  # the low halves
        "values": pack(values[kept].to(torch.float32)),
        "wide": wide,
    }
