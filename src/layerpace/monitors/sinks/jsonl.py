"""Records as lines of JSON: appended whole, bounded, and good to go on from after a crash.

The lines are described in `layerpace.monitors.sinks.text`. Records of the same keys in the same order are a set. Of
each set at most ``max_records`` are kept, as in `layerpace.monitors.history.History`: when there are more every second
one goes, and from then on only every second one is kept, and so on. With a stride of s the lines of a set are its
records 0, s, 2s, ..., so the stride of the key line and the number of lines say how many records there have been, but
for fewer than s at the end; count lines have those if the file was closed.

Lines are gathered and appended by a single write; a file that is thinned or cut is written aside and renamed. So a
crash loses what had been gathered, at most ``GATHERED`` records or ``GATHERED_BYTES``, and nothing else.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time as now

import torch
from torch import Tensor

from layerpace.engine.common.checks import check_whole
from layerpace.monitors.sinks.aside import append, aside
from layerpace.monitors.sinks.checks import finite, number
from layerpace.monitors.sinks.protocol import Owner
from layerpace.monitors.sinks.scan import Found, scan, seen_at
from layerpace.monitors.sinks.text import HEAD, count_line, key_line, record_line

GATHERED = 200  # records
GATHERED_BYTES = 1 << 20
NUMBER_BYTES = 11  # of a formatted value, about


@dataclass
class _Set:
    """Records of the same keys: how many were seen, the step of the last, and how many of them are kept.

    After a crash the first two are not ``certain``: nothing tells of records after the last line.
    """

    number: int
    keys: tuple[str, ...]
    stride: int = 1
    seen: int = 0
    last: int = 0
    kept: int = 0
    certain: bool = True
    written: int = 0  # the stride of the lines that are in the file; 0: none are


@dataclass
class _Record:
    """One that has not been written yet; ``values`` are [K]."""

    set: _Set
    index: int
    step: int
    time: float
    values: Tensor


class JSONL(Owner):
    """Writes records to a file of JSON lines.

    Args:
        path: of the file; its folder is made if need be.
        max_records: of each set of keys, >= 2; None: all.
        resume: go on with the file if there is one. A torn last line is cut off, and so, with a warning, are lines that
            are damaged.

    Raises:
        FileExistsError: the file has records, and ``resume`` is off.
        ValueError: ``max_records`` is out of range, or the file is something else.
    """

    timed = True

    def __init__(self, path: str | Path, max_records: int | None = 1000, resume: bool = False) -> None:
        if max_records is not None:
            max_records = check_whole("max_records", max_records, 2)
        self.path = Path(path)
        self.max_records = max_records
        self._sets: dict[tuple[str, ...], _Set] = {}
        self._gathered: list[_Record] = []
        self._bytes = 0
        self._closed = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not resume and self.path.exists() and self.path.stat().st_size:
            raise FileExistsError(f"{path} has records already: resume=True goes on with them, or give another path")
        self.path.touch()
        if resume:
            self._resume()

    def log(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        """Take a record.

        Args:
            values: by name; nan: not measured.
            step: a whole number.
            time: seconds since the epoch; None: now.

        Raises:
            TypeError: a value that is not a number.
            RuntimeError: the sink is closed.
        """
        row = torch.tensor([[number(key, value) for key, value in values.items()]], dtype=torch.float64, device="cpu")
        self.log_many(tuple(values), [step], [now() if time is None else time], row)

    def log_many(self, keys: Sequence[str], steps: Sequence[int], times: Sequence[float], values: Tensor) -> None:
        """Take records of the same keys; those that will not be kept are not formatted.

        Args:
            keys: K names.
            steps, times: R of each, as of `log`.
            values: [R, K], copied.

        Raises:
            ValueError: of another shape.
            RuntimeError: the sink is closed.
        """
        if self._closed:
            raise RuntimeError(f"{self.path} is closed: nothing can be recorded in it")
        if tuple(values.shape) != (len(steps), len(keys)) or len(times) != len(steps):
            raise ValueError(
                f"values must be [records, keys] = [{len(steps)}, {len(keys)}] with as many times, "
                f"got {list(values.shape)} and {len(times)} times"
            )
        numbers = [(operator.index(step), finite(time)) for step, time in zip(steps, times, strict=True)]
        if not numbers or not keys:
            return
        group = self._set(tuple(keys))
        group.certain = True
        new = []
        for place, (step, time) in enumerate(numbers):
            group.last = step
            if group.seen % group.stride == 0:
                new.append((place, group.seen, step, time))
                group.kept += 1
                self._thin(group)
            group.seen += 1
        new = [record for record in new if record[1] % group.stride == 0]
        if new:
            rows = values[[place for place, *_ in new]].detach().to("cpu").unbind(0)
            self._gathered += [_Record(group, *record[1:], row) for record, row in zip(new, rows, strict=True)]
            self._bytes += len(new) * len(keys) * NUMBER_BYTES
        if len(self._gathered) >= GATHERED or self._bytes >= GATHERED_BYTES:
            self.flush()

    @property
    def sets(self) -> list[_Set]:
        """What is known of the records of each set of keys."""
        return list(self._sets.values())

    def flush(self) -> None:
        """Write what was gathered.

        Raises:
            OSError: it cannot be written; it is kept for the next time.
        """
        # A set may have been thinned since its records came.
        self._gathered = [record for record in self._gathered if record.index % record.set.stride == 0]
        lines, introduced = [], {group.number for group in self._sets.values() if group.written}
        for record in self._gathered:
            group = record.set
            if group.number not in introduced:
                introduced.add(group.number)
                lines.append(key_line(group.number, group.keys, group.stride))
            lines.append(record_line(group.number, record.step, record.time, record.values))
        new = "".join(lines).encode()
        if any(group.written not in (0, group.stride) for group in self._sets.values()):
            self._rewrite(new)
        elif new:
            append(self.path, new)
        for group in self._sets.values():
            group.written = group.stride if group.number in introduced else 0
        self._gathered, self._bytes = [], 0

    def truncate(self, step: int | Callable[[Sequence[str]], int]) -> None:
        """Drop what was recorded after a step, as if it had not been: for a checkpoint that is older than the file.

        ``step`` may be a function of the keys of a record: optimizers that take turns count for themselves.

        Where records are kept at equal distances of steps, the same ones will be kept as without the interruption.
        """
        self.flush()
        limits = {group.number: step(group.keys) if callable(step) else step for group in self._sets.values()}
        doubtful = [group for group in self._sets.values() if group.last > limits[group.number] or not group.certain]
        if not doubtful:
            return
        found, cut = scan(self.path), False
        for group in doubtful:
            lines = found.sets[group.number]
            limit = limits[group.number]
            group.seen = seen_at(lines.steps, group.stride, group.seen, limit)
            group.last, group.certain = limit, True
            group.kept = -(-group.seen // group.stride)
            cut |= group.kept < len(lines.steps)
            if not group.seen:
                del self._sets[group.keys]
        if cut:
            self._rewrite()

    def close(self) -> None:
        """Write what was gathered, and what a later run has to know."""
        if self._closed:
            return
        self.flush()
        told = [group for group in self._sets.values() if group.certain and group.stride > 1]
        counts = [count_line(group.number, group.seen, group.last) for group in told]
        if counts:
            append(self.path, "".join(counts).encode())
        self._closed = True

    def _set(self, keys: tuple[str, ...]) -> _Set:
        if keys not in self._sets:
            if not all(isinstance(key, str) for key in keys):
                raise TypeError(f"keys must be strings, got {next(k for k in keys if not isinstance(k, str))!r}")
            last = max((group.number for group in self._sets.values()), default=-1)
            self._sets[keys] = _Set(last + 1, keys)
        return self._sets[keys]

    def _thin(self, group: _Set) -> None:
        while self.max_records is not None and group.kept > self.max_records:
            group.stride *= 2
            group.kept = (group.kept + 1) // 2

    def _resume(self) -> None:
        """Learn from the file; cut off what is no record."""
        found = scan(self.path)
        if found.damaged:
            warnings.warn(f"{self.path}: {found.damaged}: left out from now on", stacklevel=4)
        for place, lines in found.sets.items():
            kept = len(lines.steps)
            # Not certain: the next record will be kept, unless `truncate` tells where the training stood.
            seen, last = lines.count or (kept * lines.stride, lines.steps[-1])
            certain = lines.count is not None or lines.stride == 1
            group = _Set(place, lines.keys, lines.stride, seen, last, kept, certain, written=lines.stride)
            self._sets[lines.keys] = group
            self._thin(group)
        if found.trailing:
            self._rewrite()
        self.flush()

    def _rewrite(self, new: bytes = b"") -> None:
        """Keep the lines that the sets keep, and add new ones."""
        found = scan(self.path)
        with aside(self.path) as file:
            file.writelines(self._kept(found))
            file.write(new)

    def _kept(self, found: Found) -> Iterator[bytes]:
        groups = {group.number: group for group in self._sets.values()}
        index = dict.fromkeys(groups, 0)
        with open(self.path, "rb") as file:
            for line in file:
                head = HEAD.match(line)
                group = groups.get(int(head["set"])) if head else None
                if head is None or group is None or not line.endswith(b"\n"):
                    continue
                if head["kind"] == b"keys":
                    yield key_line(group.number, group.keys, group.stride).encode()
                elif head["step"] is not None:
                    if index[group.number] % group.stride == 0 and index[group.number] < group.seen:
                        yield line
                    index[group.number] += found.sets[group.number].stride
