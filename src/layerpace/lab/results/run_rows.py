"""Runs as rows: flat dicts with the same keys in the same order."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data import to_stderr
from ..errors import UsageError
from .found import Found, Warn, find

FIRST = ("folder", "name", "status")
LAST = ("step", "started", "seconds", "error")
Row = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """What the keys of rows are.

    Attributes:
        config: of what the runs were made of.
        figures: of results, or of evaluations.
    """

    config: tuple[str, ...]
    figures: tuple[str, ...]


def collect(folders: Sequence[str | Path], warn: Warn = to_stderr) -> list[Row]:
    """A row for each run in and beneath the folders.

    Args:
        folders: of runs, or with such beneath them: those of compare, train, sweep and Monitor.
        warn: is told, in a line each, which run cannot be read and is left out.

    Returns:
        Rows, all with the same keys, None where a run has no such thing: folder, name, status ("done", "diverged",
        "failed", "unfinished"); what the run was made of, nested tables flat: "options.momentum"; its result, or the
        last evaluation of one that is not done; step, the last; started, UTC; seconds, from there to the last write,
        pauses included; error. A result whose name is taken has "result." before it.

    Raises:
        UsageError: a folder does not exist.
        LabError: there is no run at all.
    """
    return table(find(folders, warn))[0]


def curves(folders: Sequence[str | Path], warn: Warn = to_stderr) -> list[Row]:
    """A row for each evaluation of each run: folder, name, step, and its figures; else as `collect`."""
    return curve_table(find(folders, warn))[0]


def table(runs: Sequence[Found]) -> tuple[list[Row], Columns]:
    """Rows of runs, and which of their keys are what."""
    config = renamed(unique(run.config for run in runs), {*FIRST, *LAST}, "config.")
    result = renamed(unique(run.result for run in runs), {*FIRST, *LAST, *config.values()}, "result.")
    rows: list[Row] = []
    for run in runs:
        row: Row = {"folder": str(run.folder), "name": run.name, "status": run.status}
        row.update({new: run.config.get(old) for old, new in config.items()})
        row.update({new: run.result.get(old) for old, new in result.items()})
        started = (
            None if run.started is None else datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds")
        )
        row.update(step=run.step, started=started, seconds=run.seconds, error=run.error or None)
        rows.append(row)
    return rows, Columns(tuple(config.values()), tuple(result.values()))


def curve_table(runs: Sequence[Found]) -> tuple[list[Row], Columns]:
    """Rows of evaluations, and which of their keys are figures."""
    keys = [key for key in unique(row for run in runs for row in run.curve) if key != "step"]
    names = renamed(keys, {"folder", "name", "step"}, "result.")
    rows = [
        {"folder": str(run.folder), "name": run.name, "step": row["step"], **{names[key]: row.get(key) for key in keys}}
        for run in runs
        for row in run.curve
    ]
    return rows, Columns((), tuple(names.values()))


def unique(tables: Iterable[Iterable[str]]) -> list[str]:
    """The keys of all, in the order in which they come up."""
    return list(dict.fromkeys(key for table in tables for key in table))


def renamed(keys: Sequence[str], taken: set[str], prefix: str) -> dict[str, str]:
    return {key: prefix + key if key in taken else key for key in keys}


def where(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Rows that meet every KEY=VALUE: numbers are compared as numbers; nothing after the = stands for nothing there.

    Raises:
        UsageError: no KEY=VALUE, or no such key.
    """
    kept = list(rows)
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UsageError(f"--where {condition}: write KEY=VALUE, such as --where method=lamb")
        known(rows, name, "--where")
        kept = [row for row in kept if alike(row[name], value)]
    return kept


def alike(item: Any, text: str) -> bool:
    """Whether a value is what a user wrote."""
    if isinstance(item, int | float) and not isinstance(item, bool):
        try:
            return float(text) == float(item)
        except ValueError:
            return False
    return text == ("" if item is None else item if isinstance(item, str) else json.dumps(item))


def ordered(rows: Sequence[Row], name: str, descending: bool) -> list[Row]:
    """Rows by a column: numbers before words, rows that have nothing there last either way.

    Raises:
        UsageError: no such column.
    """
    known(rows, name, "--sort")

    def rank(row: Row) -> tuple[bool, float, str]:
        item = row[name]
        number = isinstance(item, int | float)
        return not number, float(item) if number else 0.0, "" if number else str(item)

    there = sorted((row for row in rows if row[name] is not None), key=rank, reverse=descending)
    return [*there, *(row for row in rows if row[name] is None)]


def chosen(rows: Sequence[Row], patterns: Sequence[str]) -> list[str]:
    """The columns that the patterns name, such as "options.*", in their order.

    Raises:
        UsageError: nothing fits one of them.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = fnmatch.filter(rows[0], pattern) if rows else []
        if not fitting:
            known(rows, pattern, "--columns")
        found.update(dict.fromkeys(fitting))
    return list(found)


def known(rows: Sequence[Row], name: str, option: str) -> None:
    if rows and name not in rows[0]:
        raise UsageError(f"{option} {name}: there is no such column; there are {', '.join(rows[0])}")
