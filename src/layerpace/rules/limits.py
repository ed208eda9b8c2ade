"""Limits on how far a norm may move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.engine.common.checks import keep_range
from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Coefficients, Layers, RuleState
from layerpace.rules.norms import NormKeeper


@dataclass(frozen=True)
class LimitedNorm(NormKeeper):
    """Every layer moves by lr times its norm, and its norm grows by little: LARS as the layer rotation paper ran it::

        s = u * phi(||w||) / ||u||                                          1: as long as w
        v = w - lr*s                                                        2
        w <- v * min(1, (phi(||w||) + growth*phi(||w_0||)) / ||v||)         3

    It is `Rotation` without projections: a step across w makes it longer, and in the long run too long for floats,
    were it not for step 3. With k = lr*phi(||w||)/||u||, ||v|| is sqrt(<w,w> - 2k*<w,u> + k^2*<u,u>); with q the
    factor of step 3, c = 1 - q and b = q*k.

    Where u or lr is zero the layer does not move. A norm may fall by any amount. Weight decay is coupled.

    Args:
        growth: >= 0, of the norm in a step, in units of the norm before the first step.

    Reference: *An experimental study of layer-level training speed* (2019), appendix A.2, figure 8 and footnote 7.
    """

    growth: float = 1e-4
    names: ClassVar[tuple[str, ...]] = ("limited_norm",)

    def __post_init__(self) -> None:
        keep_range(self, "growth", 0)

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        ww, uu, wu = row["ww"], row["uu"], row["wu"]
        size = layers.phi(ww)
        ratio = torch.where(uu == 0, 0.0, size / uu.sqrt())
        k = layers.lr * ratio
        norm = (ww - 2 * k * wu + k**2 * uu).clamp(min=0).sqrt()
        limit = size + self.growth * state["initial_norm"]
        q = torch.where((k == 0) | (norm <= limit), 1.0, limit / norm)
        return Coefficients(c=1 - q, b=q * k, ratio=ratio)
