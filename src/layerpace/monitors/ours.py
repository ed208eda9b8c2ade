"""Measuring the steps of an optimizer of layerpace: the step adds up what monitors read as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.numerics.columns import MEASURED
from layerpace.engine.plan import Part
from layerpace.monitors.layout import Layout
from layerpace.monitors.reading import Reading, columns_of, option_columns, quantities_of, rule_columns, rule_fields
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Numbers, Seen, Watcher
from layerpace.optim.base import Layerwise
from layerpace.rules import Layers


class OursWatcher(Watcher):
    """An optimizer of layerpace."""

    optimizer: Layerwise

    def __init__(self, optimizer: Layerwise, layout: Layout, due: Callable[[int], bool], seen: Seen) -> None:
        super().__init__(optimizer, layout, due, seen)
        self.quantities = quantities_of(*optimizer.observed.rules)
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
            cuts = [own.cuts for part in plan.parts for own in part.rules]
            self._known = plan, [tuple(n for cut in of for n in self.layout.names(params[id(cut)])) for of in cuts]
            self.measured = [params[id(cut)] for of in cuts for cut in of]
        names = iter(self._known[1])
        return [found for part in plan.parts for found in self._numbers(part, names)]

    def _numbers(self, part: Part, names: Iterator[tuple[str, ...]]) -> list[Numbers]:
        skipped = self._skipped(len(part.rows), part.device)
        did, table = rule_columns(part)
        values = torch.cat([part.measured, skipped[:, None], self._options(part), *did], 1)
        found = []
        for own in part.rules:
            fields = (*MEASURED, "skipped", *rule_fields(own.rule))
            reading = Reading(own.rule, part.settings.min_rms)
            found.append(Numbers(next(names), fields, Transfer(columns_of(own, values, table)), reading))
        return found

    def _options(self, part: Part) -> Tensor:
        """`option_columns`, made anew when a schedule has changed them."""
        layers, _ = part.layers()
        known = self._known_options.get(part.device)
        if known is None or known[0] is not layers:
            known = self._known_options[part.device] = layers, option_columns(part)
        return known[1]
