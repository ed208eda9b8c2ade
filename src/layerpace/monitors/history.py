"""What a monitor has recorded: quantities x records x layers, on the host, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, Self

import torch
from torch import Tensor

from layerpace.engine.common.checks import check_choice
from layerpace.monitors.quantities import UPDATES


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
    """Records of all layers, in the order of their steps.

    When there are more than ``limit`` records of a kind (an optimizer, and the same quantities) every second one goes,
    and from then on every second one is kept, and so on: the whole training stays visible, ever more coarsely. What
    several optimizers of one model did in a step of the same number is one record.

    Any thread may read while another one records. A copy, and what is pickled, holds the records up to then.

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
        self._trained: dict[int, set[str]] = {}  # by each optimizer, as far as it has been told
        self._set_up()

    def _set_up(self) -> None:
        self._lock = RLock()  # held while a record is added
        self._records: list[list[Row]] | None = []  # the rows of each step; None: to be made anew
        self._catch_up: Callable[[], object] | None = None

    def after_fork(self) -> None:
        """In a child of fork, whose parent may have been adding a record: what is here stays, and nothing comes."""
        self._set_up()
        self._records = None

    def follow(self, catch_up: Callable[[], object] | None) -> None:
        """Call this before anything is read, so that what has been recorded is here by then."""
        self._catch_up = catch_up

    def _state(self) -> dict[str, Any]:
        self._current()
        with self._lock:
            return {
                "layers": self.layers,
                "limit": self.limit,
                "_places": dict(self._places),
                "_rows": list(self._rows),
                "_paces": {kind: replace(pace) for kind, pace in self._paces.items()},
                "_trained": {source: set(names) for source, names in self._trained.items()},
            }

    def __getstate__(self) -> dict[str, Any]:
        state = self._state()  # rows are parts of larger tensors, each of which pickle would write down whole
        return {**state, "_rows": [replace(row, values=row.values.clone()) for row in state["_rows"]]}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()
        self._records = None

    def copy(self) -> Self:
        """The records up to now; what is recorded later is not in it."""
        other = type(self).__new__(type(self))
        other.__setstate__(self._state())
        return other

    def of(self, sources: Iterable[int], before: int | None = None, before_time: float = math.inf) -> Self:
        """The records of these optimizers before a step and a time, seconds since the epoch."""
        other, wanted = self.copy(), set(sources)
        other._rows = [
            row
            for row in other._rows
            if row.source in wanted and (before is None or row.step < before) and row.time < before_time
        ]
        return other

    def __repr__(self) -> str:
        steps, quantities = self.steps, self.quantities
        if not steps:
            return f"History(no records yet, of {len(self.layers)} layers)"
        count = f"{len(steps)} record{'s' * (len(steps) > 1)} of {len(self.layers)} layers"
        return f"History({count}, steps {steps[0]} to {steps[-1]}: {', '.join(quantities)})"

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
        self,
        steps: Sequence[int],
        times: Sequence[float],
        names: tuple[str, ...],
        values: Tensor,
        source: int = 0,
        trained: Iterable[str] = (),
    ) -> None:
        """Add records of the same quantities; as `append`, with ``values`` [records, quantities, layers].

        ``source`` tells optimizers apart, and ``trained`` are the layers that this one trains, measured or not.
        """
        with self._lock:
            self._trained.setdefault(source, set()).update(trained)
            self._extend(steps, times, names, values, source)
            self._records = None

    def _extend(
        self, steps: Sequence[int], times: Sequence[float], names: tuple[str, ...], values: Tensor, source: int
    ) -> None:
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
        with self._lock:
            self._records = None
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
        self._records = None
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

    def rows(self) -> list[Row]:
        """The records of each optimizer by itself, in the order in which they were made."""
        self._current()
        with self._lock:
            return list(self._rows)

    def together(self) -> list[tuple[set[int], set[str]]]:
        """(optimizers, the layers that they train) of those that make their steps together.

        Where all do there is one entry, with all layers.
        """
        self._current()
        with self._lock:
            steps: dict[int, set[int]] = {}
            for row in self._rows:
                own = steps.setdefault(row.source, set())
                if not set(UPDATES).isdisjoint(row.names):
                    own.add(row.step)
            # Sources that share a layer are one optimizer: in a file each set of keys is a source.
            optimizers: list[tuple[set[int], set[str], set[int]]] = []
            for source, at in sorted(steps.items()) if len(steps) > 1 else ():
                of = {source}, set(self._of_source(source)), at
                for other in [other for other in optimizers if other[1] & of[1]]:
                    optimizers.remove(other)
                    of = other[0] | of[0], other[1] | of[1], other[2] | of[2]
                optimizers.append(of)
            groups: list[list[tuple[set[int], set[str], list[int]]]] = []
            for sources, layers, at in sorted(optimizers, key=lambda optimizer: min(optimizer[0])):
                mine = sources, layers, sorted(at)
                near = [group for group in groups if all(_alike(mine[2], other[2]) for other in group)]
                near[0].append(mine) if near else groups.append([mine])
            if len(groups) < 2:
                return [(set(steps), set(self.layers))]
            found = [(set[int]().union(*(x[0] for x in g)), set[str]().union(*(x[1] for x in g))) for g in groups]
            found[0][1].update(set(self.layers).difference(*(layers for _, layers in found)))
            return found

    def truncate(self, last: Callable[[Iterable[str]], int]) -> None:
        """Drop records that are too late: ``last`` gives the last step that is kept of those of these layers."""
        with self._lock:
            kept = [row for row in self._rows if row.step <= last(self._measured(row))]
            for kind, pace in self._paces.items():
                pace.forget(pace.kept - sum(row.kind == kind for row in kept))
            self._rows, self._records = kept, None

    def _measured(self, row: Row) -> list[str]:
        """The layers that a record tells of."""
        told = (~row.values.isnan()).any(0).tolist()
        return [name for name, known in zip(self.layers, told, strict=False) if known]

    def _of_source(self, source: int) -> set[str]:
        """The layers that an optimizer trains; where nobody has told those that it was seen to move."""
        if self._trained.get(source):
            return self._trained[source]
        told = torch.zeros(len(self.layers), dtype=torch.bool, device="cpu")
        for row in self._rows:
            if row.source == source:
                told[: row.values.shape[1]] |= (~row.values.isnan()).any(0)
        return {name for name, known in zip(self.layers, told.tolist(), strict=True) if known}

    def _current(self) -> None:
        if self._catch_up is not None:
            self._catch_up()

    def _by_step(self) -> list[list[Row]]:
        """The rows of each step, in order."""
        self._current()
        with self._lock:
            if self._records is None:
                found: dict[int, list[Row]] = {}
                for row in self._rows:
                    found.setdefault(row.step, []).append(row)
                self._records = [found[step] for step in sorted(found)]
            return self._records  # which is never changed, but made anew

    def __len__(self) -> int:
        return len(self._by_step())

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        return [rows[0].step for rows in self._by_step()]

    @property
    def times(self) -> list[float]:
        """The time of each record, seconds since the epoch; that of the first optimizer to get to the step."""
        return [min(row.time for row in rows) for rows in self._by_step()]

    @property
    def quantities(self) -> tuple[str, ...]:
        """Those that some record has; see `layerpace.monitors.quantities`."""
        kinds = dict.fromkeys(row.names for rows in self._by_step() for row in rows)
        return tuple(dict.fromkeys(name for names in kinds for name in names))

    def __contains__(self, quantity: str) -> bool:
        return quantity in self.quantities

    def __getitem__(self, quantity: str) -> Tensor:
        """float32 [records, layers]; nan: not measured, inf: not finite.

        Raises:
            ValueError: a quantity that no record has.
        """
        records, known = self._by_step(), self.quantities
        if not records:
            raise ValueError(f"no record has {quantity!r}: there is none yet")
        if quantity not in known:
            check_choice("quantity", quantity, known)
        missing = torch.full((len(self.layers),), torch.nan, device="cpu")
        return torch.stack([_merged(rows, quantity, missing) for rows in records])

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one layer where it was measured."""
        place = self.place(layer)
        found: dict[int, float] = {}
        for rows in self._by_step():
            for row in rows:
                values = row.of(quantity)
                if values is not None and place < len(values) and not torch.isnan(values[place]):
                    found[row.step] = float(values[place])
        return list(found), list(found.values())

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


def _merged(rows: Sequence[Row], quantity: str, missing: Tensor) -> Tensor:
    """What the rows of a step have of a quantity; of two that measured a layer the later one counts."""
    merged = missing
    for row in rows:
        values = row.of(quantity)
        if values is not None:
            if len(values) < len(missing):  # of an earlier time: it lacks the layers that were added later
                values = torch.cat([values, missing[len(values) :]])
            merged = values if merged is missing else torch.where(values.isnan(), merged, values)
    return merged


def _alike(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether optimizers that have records at these steps step together: neither is ahead by more than a record."""
    if not a or not b:
        return True
    gaps = [steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] for steps in (a, b)]
    return a[0] == b[0] and abs(a[-1] - b[-1]) <= max(gaps)


def _nearest(steps: Sequence[int], wanted: int) -> int:
    return min(range(len(steps)), key=lambda place: abs(steps[place] - wanted))
