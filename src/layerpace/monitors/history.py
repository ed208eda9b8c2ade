"""What a monitor has recorded: quantities x records x layers, on the host, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerpace.checks import check_choice


@dataclass(frozen=True)
class Row:
    """A record: ``values`` float32 [quantities, layers]; ``source`` tells optimizers apart."""

    step: int
    time: float
    source: int
    names: tuple[str, ...]
    values: Tensor

    @property
    def kind(self) -> Hashable:
        """Records of one optimizer that have the same quantities."""
        return self.source, self.names

    def of(self, quantity: str) -> Tensor | None:
        """[layers]; None: the record does not have it."""
        return self.values[self.names.index(quantity)] if quantity in self.names else None


@dataclass
class Pace:
    """Which of the records of a kind are kept: the 1st, and from there on every ``stride``-th."""

    seen: int = 0
    stride: int = 1
    kept: int = 0

    def keeps(self) -> bool:
        """Count a record; whether it is kept."""
        keep = self.seen % self.stride == 0
        self.seen += 1
        self.kept += keep
        return keep

    def slow_down(self) -> None:
        """Every second of those that were kept goes."""
        self.stride *= 2
        self.kept = (self.kept + 1) // 2

    def forget(self, dropped: int) -> None:
        """The last ones of those that were kept have gone."""
        self.seen -= self.stride * dropped
        self.kept -= dropped


class History:
    """Records of all layers, in the order in which they were made.

    When there are more than ``limit`` records of a kind (an optimizer, and the same quantities) every second one goes,
    and from then on every second one is kept, and so on: the whole training stays visible, ever more coarsely. Records
    of several optimizers of one model follow one another; each has nan for the layers of the others.

    Attributes:
        layers: names, from input to output.
        limit: the most records of a kind that are kept; None: all.
    """

    def __init__(self, layers: Sequence[str], limit: int | None = None) -> None:
        self.layers = tuple(layers)
        self.limit = limit
        self._places = {name: place for place, name in enumerate(self.layers)}
        self._rows: list[Row] = []
        self._paces: dict[Hashable, Pace] = {}  # of each kind

    def append(self, step: int, time: float, values: Mapping[str, Tensor]) -> None:
        """Add a record.

        Args:
            step: number of the optimizer step, 1, 2, ...
            time: seconds since the epoch.
            values: [L] by quantity; nan: not measured, inf: not finite.
        """
        rows = [value.reshape(1, -1) for value in values.values()]
        block = torch.stack(rows, 1) if rows else torch.empty(1, 0, len(self.layers), device="cpu")
        self.extend([step], [time], tuple(values), block)

    def extend(
        self, steps: Sequence[int], times: Sequence[float], names: tuple[str, ...], values: Tensor, source: int = 0
    ) -> None:
        """Add records of the same quantities; as `append`, with ``values`` [records, quantities, layers]."""
        kind = source, names
        pace = self._paces.setdefault(kind, Pace())
        kept = [place for place in range(len(steps)) if pace.keeps()]
        if len(kept) < len(steps):  # rows are parts of a tensor, which must have no others
            values = values[kept]
        found = zip(kept, values.to("cpu", torch.float32).unbind(0), strict=True)
        self._rows += [Row(steps[place], times[place], source, names, row) for place, row in found]
        while self.limit is not None and pace.kept > self.limit:
            self._thin(kind)

    def _thin(self, kind: Hashable) -> None:
        self._paces[kind].slow_down()
        self._halve(kind)

    def halve(self, source: int, names: tuple[str, ...]) -> int:
        """Drop every second record of a kind, for a reader that keeps the pace itself; the figures dropped."""
        return self._halve((source, names))

    def _halve(self, kind: Hashable) -> int:
        kept: list[Row] = []
        dropped = place = 0
        for row in self._rows:
            if row.kind != kind:
                kept.append(row)
                continue
            if place % 2 == 0:
                kept.append(replace(row, values=row.values.clone()))
            else:
                dropped += row.values.numel()
            place += 1
        self._rows = kept
        return dropped

    def sort(self) -> None:
        """By time: records that were read together may have come in turns with others."""
        self._rows.sort(key=lambda row: row.time)

    def take_over(
        self,
        other: History,
        source_of: Callable[[Iterable[str]], int],
        paces: Mapping[tuple[int, tuple[str, ...]], Pace],
    ) -> None:
        """Start with the records of another history, of the same layers.

        Args:
            other: of an earlier part of the training.
            source_of: the optimizer that trains these layers.
            paces: which of the records were kept, by optimizer and quantities, where that is known.
        """
        self.add_layers(other.layers)
        for row in other._rows:
            kind = source_of(self._measured(row)), row.names
            pace = self._paces.setdefault(kind, replace(paces[kind], kept=0) if kind in paces else Pace())
            pace.kept += 1
            pace.seen += kind not in paces
            self._rows.append(replace(row, source=kind[0]))
        for each, pace in self._paces.items():
            while self.limit is not None and pace.kept > self.limit:
                self._thin(each)

    def add_layers(self, layers: Sequence[str]) -> None:
        """Take in layers that were not there before; earlier records have nan for them."""
        for name in layers[len(self.layers) :]:
            self._places[name] = len(self._places)
        self.layers = (*self.layers, *layers[len(self.layers) :])

    def truncate(self, last: Callable[[Iterable[str]], int]) -> None:
        """Drop records that are too late: ``last`` gives the last step that is kept of those of these layers."""
        kept = [row for row in self._rows if row.step <= last(self._measured(row))]
        for kind, pace in self._paces.items():
            pace.forget(pace.kept - sum(row.kind == kind for row in kept))
        self._rows = kept

    def _measured(self, row: Row) -> list[str]:
        """The layers that a record tells of."""
        told = (~row.values.isnan()).any(0).tolist()
        return [name for name, known in zip(self.layers, told, strict=False) if known]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        return [row.step for row in self._rows]

    @property
    def times(self) -> list[float]:
        """The time of each record, seconds since the epoch."""
        return [row.time for row in self._rows]

    @property
    def quantities(self) -> tuple[str, ...]:
        """Those that some record has; see `layerpace.monitors.quantities`."""
        kinds = dict.fromkeys(row.names for row in self._rows)
        return tuple(dict.fromkeys(name for names in kinds for name in names))

    def __contains__(self, quantity: str) -> bool:
        return quantity in self.quantities

    def __getitem__(self, quantity: str) -> Tensor:
        """float32 [records, layers]; nan: not measured, inf: not finite.

        Raises:
            ValueError: a quantity that no record has.
        """
        if not self._rows:
            raise ValueError(f"no record has {quantity!r}: there is none yet")
        if quantity not in self:
            check_choice("quantity", quantity, self.quantities)
        missing = torch.full((len(self.layers),), torch.nan, device="cpu")
        found = (row.of(quantity) for row in self._rows)
        return torch.stack([missing if row is None else self._padded(row) for row in found])

    def _padded(self, row: Tensor) -> Tensor:
        """A row of an earlier time may lack the layers that were added later."""
        added = len(self.layers) - len(row)
        return torch.cat([row, torch.full((added,), torch.nan, device="cpu")]) if added else row

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one layer where it was measured."""
        place = self.place(layer)
        pairs = []
        for row in self._rows:
            values = row.of(quantity)
            if values is not None and place < len(values) and not torch.isnan(values[place]):
                pairs.append((row.step, float(values[place])))
        return [step for step, _ in pairs], [value for _, value in pairs]

    def place(self, layer: str) -> int:
        """The column of a layer.

        Raises:
            ValueError: no such layer.
        """
        if layer not in self._places:
            check_choice("layer", layer, self.layers)
        return self._places[layer]

    def clipped(self) -> dict[str, float]:
        """How often each layer's trust ratio was clipped: a share of its records, in [0, 1].

        Layers without such records are left out: no rule applies to them, or it does not clip.
        """
        if "trust_ratio_unclipped" not in self:
            return {}
        after, before = self["trust_ratio"], self["trust_ratio_unclipped"]
        told = ~(after.isnan() | before.isnan())
        shares = ((after != before) & told).sum(0) / told.sum(0)
        return {
            layer: share for layer, share in zip(self.layers, shares.tolist(), strict=True) if not math.isnan(share)
        }

    def rotation_rate(self, first: int | None = None, last: int | None = None) -> dict[str, float]:
        """How fast each layer leaves its initial weights between two records: change of cosine distance a step.

        Args:
            first, last: steps; the record nearest to each that has the cosine distance counts. None: the first, the
                last.

        Returns:
            {layer: rate}; layers without two such records are left out.
        """
        rates = {}
        for layer in self.layers if "cosine_distance" in self else ():
            steps, values = self.series("cosine_distance", layer)
            if len(steps) < 2:
                continue
            begin = 0 if first is None else _nearest(steps, first)
            end = len(steps) - 1 if last is None else _nearest(steps, last)
            if steps[end] != steps[begin]:
                rates[layer] = (values[end] - values[begin]) / (steps[end] - steps[begin])
        return rates


def _nearest(steps: Sequence[int], wanted: int) -> int:
    return min(range(len(steps)), key=lambda place: abs(steps[place] - wanted))
