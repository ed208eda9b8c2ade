"""Every tensor changes by the same share of its entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.engine.common.checks import keep_range
from layerpace.engine.numerics.columns import Constants, Table
from layerpace.rules.base import Coefficients, Layers, Rule, RuleState


@dataclass(frozen=True)
class PercentDelta(Rule):
    """Every tensor changes by the same share: the mean of |d/w| over its entries is lr::

        b = lr * n / sum |u / (w + eps*sign(w))|,        sign(0) = +1
        d = b * u

    A tensor whose RMS is below min_rms has max(|w|, min_rms) in the place of the denominator.

    Args:
        eps: >= 0, units of the weights.

    Reference: Abu-El-Haija, *Proportionate gradient updates with PercentDelta* (2017), eq. 6, 7 and footnote 2.
    """

    eps: float = 1e-8
    names: ClassVar[tuple[str, ...]] = ("percent_delta",)

    def __post_init__(self) -> None:
        keep_range(self, "eps", 0)

    def columns(self) -> tuple[str, ...]:
        return ("ww", "u_over_w_l1", "u_over_floor_l1")

    def constants(self, min_rms: float) -> Constants:
        return Constants(eps=self.eps, floor=min_rms)

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        small = row["ww"].sqrt() < layers.min_rms * layers.n.sqrt()
        total = torch.where(small, row["u_over_floor_l1"], row["u_over_w_l1"])
        ratio = torch.where(total == 0, 0.0, layers.n / total)
        return Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)
