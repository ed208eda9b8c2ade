"""Every tensor changes by the same share of its L1 norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Coefficients, Layers, Rule, RuleState


@dataclass(frozen=True)
class RelativeL1(Rule):
    """The L1 norm of every step is lr times the L1 norm of its layer::

        b = lr * max(||w||_1, min_rms*n) / ||u||_1
        d = b * u

    The exact form of the goal that PercentDelta states, ||dw||_1 / ||w||_1 = lr, and better conditioned: a weight
    that crosses zero does not shrink the layer's step.

    Reference: Abu-El-Haija (2017), section 1.
    """

    names: ClassVar[tuple[str, ...]] = ("relative_l1",)

    def columns(self) -> tuple[str, ...]:
        return ("w_l1", "u_l1")

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        size = torch.maximum(row["w_l1"], layers.min_rms * layers.n)
        ratio = torch.where(row["u_l1"] == 0, 0.0, size / row["u_l1"])
        return Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)
