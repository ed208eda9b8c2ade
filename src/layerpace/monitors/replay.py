"""Lines of records.jsonl -> History and scalars.

A line that is damaged is left out and counted: one byte that fell to bits costs one record, not the run. Where there
are more records than asked for they are thinned as they are read, the way the writer thins: every second one goes, and
so on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerpace.engine.common.files import LATEST, WIDEST, FileError, parse_json, shortened
from layerpace.monitors.history import History, Pace
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.run import LayerInfo, Series
from layerpace.monitors.sinks.text import HEAD

TOGETHER = 64  # records that are parsed at once: few enough to stay in the cache
SETS = 1000  # of keys; a training has less than ten
CELLS = 1 << 28  # figures of layers that are kept in memory, 4 bytes each


@dataclass
class _Columns:
    """Where the values of a set belong: columns of layers' quantities with their places, and those of scalars."""

    keys: tuple[str, ...]
    quantities: list[str]
    columns: Tensor  # [P]
    orders: Tensor  # [P], of its quantity among those
    places: Tensor  # [P], of its layer
    scalars: list[tuple[int, str]]
    number: int  # of the set
    layers: tuple[str, ...]
    pace: Pace = field(default_factory=Pace)


@dataclass
class _Record:
    line: int
    columns: _Columns
    step: int
    time: float
    values: bytes


@dataclass
class Replay:
    """Takes lines in the order of the file.

    Attributes:
        layers: those known beforehand; more are taken in as they appear.
        max_records: of each set of keys; None: all.
        history: the records so far.
        scalars: the user's numbers so far.
        lines: that there were.
        damaged: those of them that were left out.
        reason: what is wrong with the first of those.
        stride: the largest of the sets: 1 where all records are kept.
    """

    layers: list[LayerInfo]
    max_records: int | None = None
    history: History = field(init=False)
    scalars: dict[str, Series] = field(default_factory=dict)
    lines: int = 0
    damaged: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        self.history = History([layer.name for layer in self.layers])
        self._places = {layer.name: place for place, layer in enumerate(self.layers)}
        self._sets: dict[int, _Columns] = {}
        self._introduced = 0
        self._cells = 0

    @property
    def stride(self) -> int:
        return max((columns.pace.stride for columns in self._sets.values()), default=1)

    def feed(self, lines: Iterable[bytes]) -> None:
        """Take whole lines, without their ends.

        Raises:
            FileError: more layers and sets of keys than fit into memory.
        """
        waiting: list[_Record] = []
        for line in lines:
            self.lines += 1
            try:
                record = self._read(line)
            except FileError as error:
                self._damage(self.lines, str(error))
                continue
            if record is None:
                continue
            columns = record.columns
            if waiting and (waiting[0].columns is not columns or len(waiting) == TOGETHER):
                self._take(waiting)
                waiting = []
            waiting.append(record)
            if self.max_records is not None and columns.pace.kept > self.max_records:
                self._take(waiting)
                waiting = []
                self._thin(columns)
        if waiting:
            self._take(waiting)

    def _damage(self, line: int, what: str) -> None:
        self.damaged += 1
        self.reason = self.reason or f"line {line}: {what}"

    def _read(self, line: bytes) -> _Record | None:
        """A record, its values not parsed yet; None where the line is of another kind, or thinned out.

        Raises:
            FileError: the line is damaged.
        """
        head = HEAD.match(line)
        if head is None or len(head["set"]) > 18:
            raise FileError(f"not one of records: {shortened(line[:80])}")
        number = int(head["set"])
        if head["kind"] == b"keys":
            self._introduce(number, line)
        if head["step"] is None:
            return None
        if number not in self._sets:
            raise FileError(f"no line before it has the keys of set {number}")
        columns = self._sets[number]
        if not columns.pace.keeps():
            return None
        values = line[head.end() :].removesuffix(b"}")
        try:
            step, time = int(head["step"]), float(head["time"])
        except ValueError:
            step, time = 0, math.inf
        if abs(step) > WIDEST or abs(time) > LATEST or not values.endswith(b"]"):
            raise FileError(f"not one of records: {shortened(line[:80])}")
        return _Record(self.lines, columns, step, time, values)

    def _introduce(self, number: int, line: bytes) -> None:
        self._introduced += 1
        if self._introduced > SETS:
            raise FileError(f"more than {SETS} lines of keys")
        keys = tuple(key.text() for key in parse_json(line, "its keys", lines=False)["keys"].items())
        if number not in self._sets or self._sets[number].keys != keys:
            self._sets[number] = self._columns(number, keys)

    def _columns(self, number: int, keys: tuple[str, ...]) -> _Columns:
        scalars, found, new = [], [], []
        for column, key in enumerate(keys):
            quantity, _, layer = key.partition("/")
            if not layer or quantity not in QUANTITIES:
                scalars.append((column, key))
                continue
            if layer not in self._places:
                self._places[layer] = len(self._places)
                new.append(LayerInfo(layer, ()))
            found.append((column, quantity, self._places[layer]))
        if new:
            self.add_layers([*self.layers, *new])
        quantities = list(dict.fromkeys(quantity for _, quantity, _ in found))
        order = {quantity: place for place, quantity in enumerate(quantities)}
        indices = [
            torch.tensor(index, device="cpu") for index in zip(*((c, order[q], p) for c, q, p in found), strict=True)
        ]
        columns, orders, places = indices or [torch.zeros(0, dtype=torch.long, device="cpu")] * 3
        layers = tuple(dict.fromkeys(self.layers[place].name for *_, place in found))
        return _Columns(keys, quantities, columns, orders, places, scalars, number, layers)

    def add_layers(self, layers: Sequence[LayerInfo]) -> None:
        """Go on with more layers: those that are there, and new ones after them."""
        for place in range(len(self.layers), len(layers)):
            self._places[layers[place].name] = place
        self.layers = list(layers)
        self.history.add_layers([layer.name for layer in layers])

    def _take(self, records: Sequence[_Record]) -> None:
        """Records of one set."""
        columns = records[0].columns
        values = _parsed([record.values for record in records], len(columns.keys))
        if values is None:  # one of them is damaged: each by itself
            single = [_parsed([record.values], len(columns.keys)) for record in records]
            for record, row in zip(records, single, strict=True):
                if row is None:
                    self._damage(record.line, f"its values are not {len(columns.keys)} numbers")
            kept = [row for row in single if row is not None]
            if not kept:
                return
            records = [record for record, row in zip(records, single, strict=True) if row is not None]
            values = torch.cat(kept)
        steps = [record.step for record in records]
        for column, name in columns.scalars:
            series = self.scalars.setdefault(name, Series([], []))
            series.steps.extend(steps)
            series.values.extend(values[:, column].tolist())
        if columns.quantities:
            self._make_room(len(records) * len(columns.quantities) * len(self.layers))
            block = torch.full((len(records), len(columns.quantities), len(self.layers)), torch.nan, device="cpu")
            block[:, columns.orders, columns.places] = values[:, columns.columns].float()
            times = [record.time for record in records]
            self.history.extend(steps, times, tuple(columns.quantities), block, columns.number, columns.layers)

    def _thin(self, columns: _Columns) -> None:
        """Every second record of a set goes."""
        columns.pace.slow_down()
        if columns.quantities:
            self._cells -= self.history.halve(columns.number, tuple(columns.quantities))
        for _, name in columns.scalars:
            series = self.scalars.get(name, Series([], []))
            del series.steps[1::2], series.values[1::2]

    def _make_room(self, cells: int) -> None:
        """For so many figures more; memory is bounded, whatever a file of few bytes asks for.

        Raises:
            FileError: there is none.
        """
        self._cells += cells
        while self._cells > CELLS:
            sets = [columns for columns in self._sets.values() if columns.pace.kept > 1]
            if not sets:
                raise FileError(
                    f"{len(self.layers)} layers in {len(self._sets)} sets of keys: more than memory has room for"
                )
            for columns in sets:
                self._thin(columns)


def _parsed(values: Sequence[bytes], count: int) -> Tensor | None:
    """float64 [records, count]; None: some are something else."""
    text = b",".join(values).replace(b"null", b"NaN")
    try:
        rows = json.loads(b"[" + text + b"]")
        if len(values) == 1 and rows:  # whole numbers beyond 64 bits are numbers, too
            rows = [[float(x) if type(x) in (int, float) else None for x in row] for row in rows]
        found = torch.tensor(rows, dtype=torch.float64, device="cpu")
    except (ValueError, TypeError, OverflowError, RecursionError, RuntimeError):
        return None
    return found if found.shape == (len(values), count) else None
