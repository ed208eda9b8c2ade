"""What an optimizer shows to those who watch it: monitors read this record, and nothing else of its inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from layerpace.engine.entries import Settings
from layerpace.engine.plan import Part, Plan
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Rule


@dataclass(frozen=True)
class Observed:
    """An optimizer as it is now; ask it for another after each step.

    Attributes:
        settings: what holds for all of its parameters.
        rules: what its groups have, in their order.
        layers: how each parameter is cut into layers.
        plan: of the last step; None: there was none, or nobody had asked for what it leaves.
    """

    settings: Settings
    rules: Sequence[Rule]
    layers: Mapping[Tensor, ParameterLayers]
    plan: Plan | None
    _readers: set[int]
    _idle: Callable[[], None] | None = None

    @property
    def parts(self) -> Sequence[Part]:
        """What the rule saw and did in the last step, device by device."""
        return () if self.plan is None else self.plan.parts

    def ask(self, reader: object) -> None:
        """Have the next steps leave the sums that monitors read, until every reader has been released."""
        self._readers.add(id(reader))

    def release(self, reader: object) -> None:
        """End that for one reader; also for one that has not asked."""
        self._readers.discard(id(reader))
        if not self._readers and self._idle is not None:
            self._idle()
