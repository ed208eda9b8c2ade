"""What the terminal shows of a run at one moment, as plain figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...engine.common.checks import check_choice
from ...engine.common.printable import printable
from ..history import History
from ..run import Run
from .characters import scale

if TYPE_CHECKING:
    from ..diagnose import Finding

SPARK = "relative_update_l1"
SHOWN = (SPARK, "rotation_angle", "cosine_distance", "trust_ratio")
SEVERITIES = ("error", "warning", "note")
SORTS = ("layer", "relative-update", "findings")
RECENT = 20  # records that the pace is taken from
STALE_AFTER = 30.0  # seconds without a record, and
STALE_TIMES = 5.0  # so many times the usual distance between two


class WatchError(ValueError):
    """What was asked for is not there; the message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
        name: of the layer.
        place: in the order from input to output.
        updates: relative updates of all records in which it has one.
        last: its last figure of each quantity of ``SHOWN``; nan: none.
        finding: the worst one that names it.
    """

    name: str
    place: int
    updates: Sequence[float]
    last: Sequence[float]
    finding: Finding | None

    @property
    def rank(self) -> int:
        """0: an error, 1: a warning, 2: a note, 3: nothing found."""
        return len(SEVERITIES) if self.finding is None else SEVERITIES.index(self.finding.severity)


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    Attributes:
        run: the run.
        rows: its layers, or those asked for, from input to output.
        findings: of the whole run, worst first.
        ends: logarithms at the foot and the top of the sparklines.
        step, time: of the last record; None: there is none yet.
        pace: steps a second over the last records; None: not known.
        gap: seconds between two of them; None: not known.
    """

    run: Run
    rows: Sequence[Row]
    findings: Sequence[Finding]
    ends: tuple[float, float]
    step: int | None
    time: float | None
    pace: float | None
    gap: float | None

    def stale(self, now: float) -> bool:
        """The run is not finished, and has been silent for longer than it usually is."""
        if self.run.finished or self.time is None:
            return False
        return now - self.time > max(STALE_AFTER, STALE_TIMES * (self.gap or 0.0))


def take(run: Run, findings: Sequence[Finding], layers: str | None = None) -> Snapshot:
    """The figures of a run.

    Args:
        run: as it is now.
        findings: of ``diagnose``.
        layers: a glob (or, without a wildcard, a part of the name); commas between several. None: all layers.

    Raises:
        WatchError: no layer has such a name.
    """
    history = run.history
    wanted = [k for k, name in enumerate(history.layers) if matches(name, layers)]
    if not wanted and history.layers:
        some = ", ".join(history.layers[:3]) + (", ..." if len(history.layers) > 3 else "")
        raise WatchError(f"no layer of {run.name} matches {layers!r}; it has {some}")
    worst: dict[str, Finding] = {}
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    for finding in ordered:
        for name in finding.layers:
            worst.setdefault(name, finding)
    last = [last_figures(history, quantity) for quantity in SHOWN]
    table = history[SPARK].T.tolist() if SPARK in history else [[]] * len(history.layers)
    measured = [[x for x in line if x == x] for line in table]
    rows = [
        Row(history.layers[k], k, table[k] if often(table[k]) else measured[k], [float(x[k]) for x in last],
            worst.get(history.layers[k]))
        for k in wanted
    ]  # fmt: skip
    pace, gap = pace_of(history)
    ends = scale([x for k in wanted for x in measured[k]])
    steps, times = history.steps, history.times
    step, time = (max(steps), max(times)) if steps else (None, None)
    return Snapshot(run, rows, ordered, ends, step, time, pace, gap)


def often(line: Sequence[float]) -> bool:
    """Measured in most records: what is missing is a gap. Otherwise two optimizers take turns, and there is none."""
    return sum(x == x for x in line) > 0.7 * len(line)


def matches(name: str, globs: str | None) -> bool:
    """Whether the name has one of the parts, or is of one of the forms, that commas stand between."""
    if globs is None:
        return True
    for glob in filter(None, (part.strip() for part in globs.split(","))):
        # A bracket is a part of a segment's name, such as qkv[1], and no wildcard.
        if glob in name or (("*" in glob or "?" in glob) and fnmatchcase(name, glob.replace("[", "[[]"))):
            return True
    return False


def last_figures(history: History, quantity: str) -> Tensor:
    """[layers]: the last one that was measured of each; nan: none."""
    made = torch.full((len(history.layers),), torch.nan, device="cpu")
    if quantity not in history:
        return made
    table = history[quantity]
    known = ~table.isnan()
    latest = len(table) - 1 - known.flip(0).to(torch.uint8).argmax(dim=0)
    return torch.where(known.any(dim=0), table[latest, torch.arange(table.shape[1], device="cpu")], made)


def pace_of(history: History) -> tuple[float | None, float | None]:
    """(steps a second, seconds between records) over the last records: medians, which a pause does not change."""
    steps, times = history.steps[-RECENT:], history.times[-RECENT:]
    pairs = [(b - a, u - t) for a, b, t, u in zip(steps, steps[1:], times, times[1:], strict=False)]
    paces = [made / took for made, took in pairs if made > 0 and took > 0]
    return (median(paces) if paces else None), (median(took for _, took in pairs) if pairs else None)


def arranged(rows: Sequence[Row], sort: str, room: int | None) -> list[Row]:
    """The rows to show, in order. Where there is no room for all, those with findings come before the others.

    Args:
        rows: from input to output.
        sort: one of ``SORTS``; "relative-update": largest first.
        room: the most rows; None: all.
    """
    check_choice("sort", sort, SORTS)
    ordered = list(rows)
    if sort == "relative-update":
        ordered.sort(key=lambda row: (math.isnan(row.last[0]), -row.last[0] if row.last[0] == row.last[0] else 0.0))
    elif sort == "findings":
        ordered.sort(key=lambda row: row.rank)
    if room is None or len(ordered) <= room:
        return ordered
    place = {row.name: k for k, row in enumerate(ordered)}
    return sorted(sorted(ordered, key=lambda row: row.rank)[: max(0, room)], key=lambda row: place[row.name])
