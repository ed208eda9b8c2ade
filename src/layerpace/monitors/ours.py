"""Measuring the steps of an optimizer of layerpace: the step adds up what monitors read as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.numerics.columns import MEASURED
from layerpace.engine.plan import Part
from layerpace.monitors.layout import Layout
from layerpace.monitors.reading import Reading, option_columns, quantities_of, rule_columns, rule_fields
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Numbers, Seen, Watcher
from layerpace.optim.base import Layerwise
from layerpace.rules import Layers


class OursWatcher(Watcher):
    """An optimizer of layerpace."""

    optimizer: Layerwise

    def __init__(self, optimizer: Layerwise, layout: Layout, due: Callable[[int], bool], seen: Seen) -> None:
        super().__init__(optimizer, layout, due, seen)
        self.quantities = quantities_of(optimizer.rule)
        self._known: tuple[Any, list[tuple[str, ...]]] | None = None
        self._known_options: dict[torch.device, tuple[Layers, Tensor]] = {}

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.optimizer.observed.ask(self)

    def _stop(self) -> None:
        self.optimizer.observed.release(self)

    def _end(self) -> list[Numbers]:
        seen = self.optimizer.observed
        plan = seen.plan
        if plan is None:  # no parameter had a gradient
            return []
        if self._known is None or self._known[0] is not plan:
            params = {id(cut): param for param, cut in seen.layers.items()}
            of_part = [[params[id(cut)] for cut in part.rows.cuts] for part in plan.parts]
            self._known = plan, [tuple(n for p in part for n in self.layout.names(p)) for part in of_part]
            self.measured = [p for part in of_part for p in part]
        return [self._numbers(part, names) for part, names in zip(plan.parts, self._known[1], strict=True)]

    def _numbers(self, part: Part, names: tuple[str, ...]) -> Numbers:
        rule = part.settings.rule
        skipped = self._skipped(len(part.rows), part.device)
        values = torch.cat([part.measured, self._options(part), *rule_columns(part), skipped[:, None]], 1)
        fields = (*MEASURED, *rule_fields(rule), "skipped")
        return Numbers(names, fields, Transfer(values), Reading(rule, part.settings.min_rms))

    def _options(self, part: Part) -> Tensor:
        """`option_columns`, made anew when a schedule has changed them."""
        layers, _ = part.layers()
        known = self._known_options.get(part.device)
        if known is None or known[0] is not layers:
            known = self._known_options[part.device] = layers, option_columns(part)
        return known[1]
