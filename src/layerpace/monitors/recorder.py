"""From the numbers that steps have left to the history and the sinks, many records at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from layerpace.monitors.history import History
from layerpace.monitors.layout import Layout
from layerpace.monitors.quantities import OCCASIONAL, QUANTITIES
from layerpace.monitors.watchers import Numbers

PENDING = 64  # records that are read at once
MOST_PENDING = 4 * PENDING  # that wait for a device before somebody waits for it


@dataclass
class Pending:
    """A record whose numbers have not been read yet; ``source`` tells one optimizer from another."""

    source: int
    step: int
    time: float
    numbers: list[Numbers]


@dataclass(frozen=True)
class Batch:
    """Records that are read together: ``values`` are float64 [records, quantities, layers of the model]."""

    source: int
    steps: list[int]
    times: list[float]
    names: tuple[str, ...]
    values: Tensor


class Recorder:
    """Reads records, in the order in which they were made.

    The training adds them, any thread may read them. The training never waits for another thread that reads, unless a
    device is far behind.

    Args:
        layout: of the model.
        history: where they go.
        write: takes each batch to the sinks.
        lock: held while records are read.
    """

    def __init__(self, layout: Layout, history: History, write: Callable[[Batch], None], lock: RLock) -> None:
        self._layout, self._history, self._write = layout, history, write
        self._reading = lock
        self._pending: deque[Pending] = deque()
        self._places: dict[tuple[str, ...], Tensor] = {}
        self._latest: dict[int, dict[str, Tensor]] = {}
        self.skipped = 0
        self.recorded = False  # anything

    def add(self, record: Pending) -> None:
        """Take a record; reads those that have arrived when there are many."""
        self._pending.append(record)
        self.recorded = True
        if len(self._pending) >= PENDING:
            self.read(wait=len(self._pending) >= MOST_PENDING)

    def read(self, wait: bool = True) -> None:
        """Read all records, or those whose numbers have arrived from their device."""
        if not self._reading.acquire(blocking=wait):
            return  # somebody else reads them
        try:
            ready = len(self._pending)
            if not wait:
                # By place: the training may add to them meanwhile.
                ready = next((place for place in range(ready) if not _arrived(self._pending[place])), ready)
            waiting = [self._pending.popleft() for _ in range(ready)]
            for source in dict.fromkeys(record.source for record in waiting):
                own = [record for record in waiting if record.source == source]
                start = 0
                while start < len(own):
                    end = start + 1
                    while end < len(own) and _alike(own[start], own[end]):
                        end += 1
                    self._read(own[start:end])
                    start = end
        finally:
            self._reading.release()

    def drop(self) -> None:
        """Forget what waits; the latest values are those of the history then."""
        with self._reading:
            self._pending.clear()

    def restore(self) -> None:
        """Take the latest values from the history."""
        with self._reading:
            self._latest = {}
            for row in self._history.rows():
                self._note_latest(row.source, row.names, row.values.double())

    def after_fork(self, lock: RLock) -> None:
        """Forget what waits, in a child of fork, which may have no use of its device; the parent reads it."""
        self._reading = lock
        self._pending = deque()

    def _read(self, records: Sequence[Pending]) -> None:
        """Read records that have the same kinds of numbers."""
        self._history.add_layers([layer.name for layer in self._layout.layers])
        found: list[tuple[Tensor, dict[str, Tensor]]] = []  # the places of layers, and [records, rows] by quantity
        skipped = torch.zeros(len(records), dtype=torch.bool, device="cpu")
        for kind in zip(*(record.numbers for record in records), strict=True):
            columns = torch.stack([numbers.values.get() for numbers in kind]).permute(2, 0, 1).contiguous()
            fields = dict(zip(kind[0].fields, columns.unbind(0), strict=True))
            if "skipped" in fields:
                skipped |= (fields["skipped"] != 0).all(1)
            found.append((self._place(kind[0].layers), kind[0].read(fields)))
        present = {name for _, quantities in found for name in quantities}
        names = tuple(name for name in QUANTITIES if name in present)
        values = torch.full(
            (len(records), len(names), len(self._history.layers)), math.nan, dtype=torch.float64, device="cpu"
        )
        for places, quantities in found:
            for name, value in quantities.items():
                values[:, names.index(name)].index_copy_(1, places, value)
        kept = [place for place, out in enumerate(skipped.tolist()) if not out]
        self.skipped += len(records) - len(kept)
        if not kept or not names:
            return
        if len(kept) < len(records):
            values = values[kept]
        empty = [place for place, layer in enumerate(self._layout.layers) if not layer.entries]
        if empty:  # nothing can be said of them
            values[:, :, empty] = math.nan
        batch = Batch(
            records[0].source, [records[i].step for i in kept], [records[i].time for i in kept], names, values
        )
        self._note_latest(batch.source, names, batch.values[-1].clone())
        trained = self._layout.of_optimizer(batch.source)
        self._history.extend(batch.steps, batch.times, names, values, batch.source, trained)
        self._write(batch)

    def _place(self, layers: tuple[str, ...]) -> Tensor:
        if layers not in self._places:
            self._places[layers] = torch.tensor([self._history.place(name) for name in layers], device="cpu")
        return self._places[layers]

    def _note_latest(self, source: int, names: Sequence[str], values: Tensor) -> None:
        """Take the values of an optimizer's last record, [quantities, layers]."""
        latest = self._latest.setdefault(source, {})
        if not set(OCCASIONAL).issuperset(names):
            for name in [name for name in latest if name not in OCCASIONAL]:
                del latest[name]
        for name, value in zip(names, values, strict=True):
            before = latest.get(name)
            if name in OCCASIONAL and before is not None and len(before) == len(value):
                value = torch.where(value.isnan(), before, value)
            latest[name] = value

    def latest(self) -> dict[str, dict[str, float]]:
        """{layer: {quantity: value}} of the last record of each optimizer; what was not measured is left out."""
        with self._reading:
            self.read()
            found: dict[str, dict[str, float]] = {}
            for values in self._latest.values():
                for name, value in values.items():
                    for layer, number in zip(self._history.layers, value.tolist(), strict=False):
                        if not math.isnan(number):
                            found.setdefault(layer, {})[name] = number
            return {layer: found[layer] for layer in self._history.layers if layer in found}


def _arrived(record: Pending) -> bool:
    return all(numbers.values.ready for numbers in record.numbers)


def _alike(a: Pending, b: Pending) -> bool:
    def kinds(record: Pending) -> list[Any]:
        return [(numbers.layers, numbers.fields, numbers.read) for numbers in record.numbers]

    return kinds(a) == kinds(b)
