"""A run folder, as far as it is written, becomes a `Found`; what cannot be read is named in a line and left out.

Nothing of a folder is changed, so this can look at runs that train.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.common.printable import printable
from ...monitors.follower import RECORDS, RUN, Follower, read_settings
from ...monitors.run import Run
from ..errors import LabError, UsageError, one_line
from ..records import CHECKPOINT, CONFIG, CURVE, DONE, KIND, WEIGHTS
from ..sweep.protocol import FAILED, REQUEST

Warn = Callable[[str], None]
MARKS = (REQUEST, DONE, FAILED, CURVE, CHECKPOINT, WEIGHTS)  # one of them beside config.json: a run of the lab


@dataclass
class Found:
    """One run.

    Attributes:
        folder: its path, as it was reached from the one that was asked for.
        name: of the folder, or the one that a monitor gave it.
        status: "done"; "diverged"; "failed": the last attempt raised; "unfinished": it runs, waits or was stopped.
        config: what it was made of, flat: "options.momentum".
        result: what DONE holds, flat; of a run that is not done its last evaluation.
        curve: a row an evaluation, each with its "step".
        started: seconds since 1970; None: nobody knows.
        seconds: from then to the last write, pauses included.
        error: last line of the traceback, "" if there is none.
    """

    folder: Path
    name: str
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    started: float | None = None
    seconds: float | None = None
    error: str = ""

    @property
    def step(self) -> int | None:
        """Of the last evaluation; None: there was none."""
        return self.curve[-1]["step"] if self.curve else None


def find(folders: Sequence[str | Path], warn: Warn) -> list[Found]:
    """Every run in and beneath the folders, in the order of their paths, each once.

    Args:
        folders: of runs, or with such beneath them.
        warn: is told in one line what cannot be read.

    Raises:
        UsageError: a folder does not exist.
        LabError: there is no run at all.
    """
    found: dict[Path, Found] = {}
    for given in folders:
        root = Path(given)
        if not root.is_dir():
            raise UsageError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}")
        for place in walk(root, warn):
            if place.resolve() in found:
                continue
            try:
                found[place.resolve()] = read(place)
            except (OSError, ValueError) as error:
                warn(printable(f"skipped {place}: {one_line(error)}"))
    if not found:
        raise LabError(f"there is no run in {' or '.join(map(str, folders))}, nor beneath")
    return list(found.values())


def walk(root: Path, warn: Warn) -> Iterator[Path]:
    """The run folders in and beneath a folder; what a run's folder has beneath it belongs to the run."""
    for path, below, files in os.walk(root, onerror=lambda error: warn(printable(f"skipped {one_line(error)}"))):
        below[:] = sorted(name for name in below if not name.startswith("."))
        place = Path(path)
        lab = CONFIG in files and (place.parent.name == "runs" or any(mark in files for mark in MARKS))
        if (lab and not comparison(place)) or RUN in files or RECORDS in files:
            below[:] = []
            yield place


def comparison(folder: Path) -> bool:
    """Whether a folder is that of `layerpace compare`, which has its runs beneath it, and may lie in runs/ itself."""
    try:
        return table(folder / CONFIG).get("kind") == KIND
    except (OSError, ValueError):
        return False  # `read` says what is wrong with it


def read(folder: Path) -> Found:
    """One run.

    Raises:
        ValueError, OSError: a file of it cannot be read; the message says which.
    """
    found = of_lab(folder) if (folder / CONFIG).exists() else of_monitor(folder)
    if found.started is not None:
        files = [folder / name for name in (DONE, FAILED, CURVE, RECORDS)]
        last = max((path.stat().st_mtime for path in files if path.exists()), default=found.started)
        found.seconds = round(max(last - found.started, 0.0), 3)
    return found


def of_lab(folder: Path) -> Found:
    """A run of compare, train or sweep."""
    found = Found(folder, folder.resolve().name, "unfinished")
    found.config = flat(table(folder / CONFIG))
    if (folder / CURVE).exists():
        found.curve = [row for row in lines(folder / CURVE) if isinstance(row.get("step"), int)]
    if (folder / DONE).exists():
        result = table(folder / DONE)
        found.status = "diverged" if result.pop("status", "done") == "diverged" else "done"
        found.result = flat(result)
    else:
        found.result = {key: item for row in found.curve[-1:] for key, item in row.items() if key != "step"}
        if (folder / FAILED).exists():
            text = (folder / FAILED).read_text(encoding="utf-8", errors="replace").split("\n")
            found.status = "failed"
            found.error = next((line.strip() for line in reversed(text) if line.strip()), "")
    found.started = (folder / CONFIG).stat().st_mtime
    if (folder / RUN).exists():
        begun = read_settings(folder / RUN).started
        found.started = found.started if begun is None else min(begun, found.started)
    return found


def of_monitor(folder: Path) -> Found:
    """A run that `layerpace.Monitor` recorded in a training of the user's own."""
    run = Follower(folder).run
    found = Found(folder, run.name, "done" if run.finished else "unfinished", flat(run.settings))
    found.curve = evaluations(run)
    found.result = {name: series.values[-1] for name, series in run.scalars.items() if series.values}
    if (folder / RUN).exists():
        found.started = read_settings(folder / RUN).started
    return found


def evaluations(run: Run) -> list[dict[str, Any]]:
    """The user's scalars, a row a step; the last row is of the last record, whatever it has."""
    rows: dict[int, dict[str, Any]] = {}
    for name, series in run.scalars.items():
        for step, value in zip(series.steps, series.values, strict=True):
            rows.setdefault(step, {"step": step})[name] = value
    for step in run.history.steps[-1:]:
        rows.setdefault(int(step), {"step": int(step)})
    return [rows[step] for step in sorted(rows)]


def table(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object, or half of one")
    return content


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; one that is being written is no line yet."""
    text = path.read_text(encoding="utf-8")
    try:
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path.name} has a line that is no JSON object")
    return rows


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay."""
    found: dict[str, Any] = {}
    for name, item in table.items():
        if isinstance(item, Mapping):
            found.update(flat(item, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = item
    return found
