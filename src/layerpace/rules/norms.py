"""Rules that remember the norm a layer started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Layers, Rule, RuleState


@dataclass(frozen=True)
class NormKeeper(Rule):
    """A rule that remembers the norm before a layer's first step, and reads the inner products of w and u."""

    excludes_vectors: ClassVar[bool] = True
    keeps_norm: ClassVar[bool] = True

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("initial_norm",)

    @property
    def nonnegative(self) -> tuple[str, ...]:
        return ("initial_norm",)

    def columns(self) -> tuple[str, ...]:
        return ("ww", "uu", "wu")

    def init(self, row: Table, layers: Layers) -> RuleState:
        return {"initial_norm": layers.phi(row["ww"])}
