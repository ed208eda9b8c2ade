"""Lines of records.jsonl -> History and scalars."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerpace.monitors.history import History
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.run import LayerInfo, Series
from layerpace.monitors.sinks.text import HEAD

TOGETHER = 64  # records that are parsed at once: few enough to stay in the cache


@dataclass
class _Columns:
    """Where the values of a set belong: columns of layers' quantities with their places, and those of scalars."""

    count: int
    quantities: list[str]
    columns: Tensor  # [P]
    orders: Tensor  # [P], of its quantity among those
    places: Tensor  # [P], of its layer
    scalars: list[tuple[int, str]]


@dataclass
class _Record:
    columns: _Columns
    step: int
    time: float
    values: bytes


@dataclass
class Replay:
    """Takes lines in the order of the file.

    Attributes:
        layers: those known beforehand; more are taken in as they appear.
        history: the records so far.
        scalars: the user's numbers so far.
    """

    layers: list[LayerInfo]
    history: History = field(init=False)
    scalars: dict[str, Series] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = History([layer.name for layer in self.layers])
        self._places = {layer.name: place for place, layer in enumerate(self.layers)}
        self._sets: dict[int, _Columns] = {}
        self._lines = 0

    def feed(self, lines: Iterable[bytes]) -> None:
        """Take whole lines, without their ends.

        Raises:
            ValueError: a line that is none of `layerpace.monitors.sinks.text`.
        """
        waiting: list[_Record] = []
        for line in lines:
            self._lines += 1
            try:
                record = self._read(line)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {self._lines} is not one of records: {line[:80]!r}") from None
            if record is None:
                continue
            if waiting and (waiting[0].columns is not record.columns or len(waiting) == TOGETHER):
                self._take(waiting)
                waiting = []
            waiting.append(record)
        if waiting:
            self._take(waiting)

    def _read(self, line: bytes) -> _Record | None:
        """A record, its values not parsed yet; None where the line is of another kind."""
        head = HEAD.match(line)
        if head is None:
            raise ValueError
        if head["kind"] == b"keys":
            self._sets[int(head["set"])] = self._columns(json.loads(line)["keys"])
        if head["step"] is None:
            return None
        values = line[head.end() :].removesuffix(b"}")
        return _Record(self._sets[int(head["set"])], int(head["step"]), float(head["time"]), values)

    def _columns(self, keys: Sequence[str]) -> _Columns:
        scalars, found = [], []
        for column, key in enumerate(keys):
            quantity, _, layer = key.partition("/")
            if not layer or quantity not in QUANTITIES:
                scalars.append((column, key))
                continue
            if layer not in self._places:
                self.add_layers([*self.layers, LayerInfo(layer, ())])
            found.append((column, quantity, self._places[layer]))
        quantities = list(dict.fromkeys(quantity for _, quantity, _ in found))
        order = {quantity: place for place, quantity in enumerate(quantities)}
        indices = [
            torch.tensor(index, device="cpu") for index in zip(*((c, order[q], p) for c, q, p in found), strict=True)
        ]
        columns, orders, places = indices or [torch.zeros(0, dtype=torch.long, device="cpu")] * 3
        return _Columns(len(keys), quantities, columns, orders, places, scalars)

    def add_layers(self, layers: Sequence[LayerInfo]) -> None:
        """Go on with more layers: those that are there, and new ones after them."""
        for place in range(len(self.layers), len(layers)):
            self._places[layers[place].name] = place
        self.layers = list(layers)
        self.history.add_layers([layer.name for layer in layers])

    def _take(self, records: Sequence[_Record]) -> None:
        """Records of one set."""
        columns, steps = records[0].columns, [record.step for record in records]
        text = b",".join(record.values for record in records).replace(b"null", b"NaN")
        try:
            values = torch.tensor(json.loads(b"[" + text + b"]"), dtype=torch.float64, device="cpu")
            if values.shape != (len(records), columns.count):
                raise ValueError
        except (ValueError, TypeError):
            raise ValueError(f"the values of a record of steps {steps[0]} to {steps[-1]} cannot be read") from None
        for column, name in columns.scalars:
            series = self.scalars.setdefault(name, Series([], []))
            series.steps.extend(steps)
            series.values.extend(values[:, column].tolist())
        if columns.quantities:
            block = torch.full((len(records), len(columns.quantities), len(self.layers)), torch.nan, device="cpu")
            block[:, columns.orders, columns.places] = values[:, columns.columns].float()
            times = [record.time for record in records]
            self.history.extend(steps, times, tuple(columns.quantities), block)
