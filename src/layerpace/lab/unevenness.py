"""Unevenness: how differently the layers of a run move, one number, in decades.

At each recorded step the standard deviation over layers of log10(|dW|_1 / |W|_1), then the mean over the records.
0: all layers change by the same share; 1: a typical layer is a factor of ten away from the others. Layers are those
with two or more dimensions; one counts in a record where it was measured and its relative update is finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..monitors.history import History
from ..monitors.run import LayerInfo

STILL = 1e-12  # a layer that does not move at all counts as moving by this share


def matrices(layers: Iterable[LayerInfo]) -> list[str]:
    """Names of the trained layers with two or more dimensions."""
    return [layer.name for layer in layers if layer.trained and len(layer.shape) >= 2]


def unevenness(history: History, layers: Sequence[str]) -> float | None:
    """Mean over records of the sd over `layers` of log10 of the relative L1 update.

    Records with fewer than two of the layers do not count; None if that leaves none.
    """
    if "relative_update_l1" not in history:
        return None
    shares = history["relative_update_l1"][:, [history.place(name) for name in layers]].double()
    measured = torch.isfinite(shares)
    logs = torch.where(measured, shares.clamp(min=STILL).log10(), 0.0)
    count = measured.sum(1)
    mean = logs.sum(1) / count
    variance = ((logs - mean[:, None]).square() * measured).sum(1) / count
    spreads = variance.sqrt()[count > 1]
    return spreads.mean().item() if len(spreads) else None
