"""The direction as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Coefficients, Layers, Rule, RuleState


@dataclass(frozen=True)
class Identity(Rule):
    """The direction as it is, with decoupled weight decay: AdamW where the direction is Adam::

    d = lr * (u + lambda*w)
    """

    names: ClassVar[tuple[str, ...]] = ("identity",)
    decoupled: ClassVar[bool] = True

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        c = layers.lr * layers.weight_decay if layers.decays else None
        return Coefficients(c=c, b=layers.lr, ratio=torch.ones_like(layers.lr))
