"""The folder of a run: what a monitor writes, and reading it back, finished or while it grows.

::

    RUN/run.json          {"kind": "layerpace run", "version": 1, "name", "settings", "layers", "started"}
    RUN/records.jsonl     layers' quantities and the user's scalars; see `layerpace.monitors.sinks.text`
    RUN/initial.pt        the initial weights of the rotation curves, where there are any
    RUN/DONE              there once the run is finished
    RUN/.writer           whose it is while it is written; the system knows when its owner has gone
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.common.checks import plain
from layerpace.engine.common.files import FileError, load_saved
from layerpace.engine.common.printable import printable
from layerpace.monitors.follower import DONE, KIND, RECORDS, RUN, VERSION, Follower, read_settings
from layerpace.monitors.lock import Lock, hold
from layerpace.monitors.run import LayerInfo, Run
from layerpace.monitors.sinks.aside import aside
from layerpace.monitors.sinks.jsonl import JSONL

__all__ = ["Follower", "MonitorFolder", "find", "load"]

INITIAL = "initial.pt"
DEPTH = 3  # folders down to which runs are looked for: OUT/runs/METHOD-sSEED-HASH is two below OUT


class MonitorFolder:
    """What a monitor writes.

    Args:
        path: of the folder; made if need be.
        settings: JSON-like; anything else in it is written as its repr.
        layers: of the model, from input to output; where more of them appear later, `flush` writes them down.
        max_records: of each set of keys, >= 2.
        resume: go on in a folder that has a run; a finished one is no longer so.
        name: of the run; None: that of the folder.
        done: whether `finish` writes DONE; False where somebody else decides on that.

    Attributes:
        path: of the folder.
        records: the sink.

    Raises:
        FileExistsError: there is a run in the folder, and ``resume`` is off; or ``path`` is a file.
        BlockingIOError: another process writes to the folder.
        ValueError: the run in the folder is of another model, or ``max_records`` is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        layers: Sequence[LayerInfo],
        max_records: int = 1000,
        resume: bool = False,
        *,
        name: str | None = None,
        done: bool = True,
    ) -> None:
        self.path = Path(path)
        self._settings, self._layers, self._done = settings, layers, done
        self._name, self._started = name or self.path.resolve().name, time.time()
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{path} is a file, not a folder for a run")
        if not resume and is_run(self.path):
            raise FileExistsError(f"{path} has a run already: resume=True goes on with it, or give another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock: Lock | None = hold(self.path)
        try:
            found = is_run(self.path)
            if found and not resume:  # another process was faster
                raise FileExistsError(f"{path} has a run already: resume=True goes on with it, or give another folder")
            if found:
                self._compare()
            self.records = JSONL(self.path / RECORDS, max_records, resume)
            if found and done:
                (self.path / DONE).unlink(missing_ok=True)
            self._write_settings()
        except BaseException:
            self.let_go()
            raise

    def _compare(self) -> None:
        """Go on only with a run of the same layers; keep its name and start."""
        if not (self.path / RUN).exists():
            return
        found = read_settings(self.path / RUN)
        self._name = self._name if found.name is None else found.name
        self._started = self._started if found.started is None else found.started
        for before, layer in zip(found.layers, self._layers, strict=False):
            if (before.name, before.shape) != (layer.name, layer.shape):
                raise ValueError(
                    f"{self.path} has a run of another model: its layer {before.name!r} of shape {list(before.shape)} "
                    f"stands where this one has {layer.name!r} of shape {list(layer.shape)}"
                )

    def _write_settings(self) -> None:
        self._written = list(self._layers)
        content = {
            "kind": KIND,
            "version": VERSION,
            "name": self._name,
            "settings": json_like(self._settings),
            "layers": [dataclasses.asdict(layer) for layer in self._layers],
            "started": self._started,
        }
        with aside(self.path / RUN) as file:
            file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Keep other settings from the next `flush` on."""
        self._settings, self._written = settings, []

    def flush(self) -> None:
        """Write what the records have gathered, and layers that have appeared."""
        if list(self._layers) != self._written:
            self._write_settings()
        self.records.flush()

    def save_initial(self, weights: Mapping[str, Tensor]) -> None:
        """Keep the initial weights, by name."""
        with aside(self.path / INITIAL) as file:
            torch.save(dict(weights), file)

    def initial(self) -> dict[str, Tensor] | None:
        """The initial weights that were kept, on the CPU; None: none were.

        Raises:
            FileError: they cannot be read.
        """
        path = self.path / INITIAL
        if not path.exists():
            return None
        weights = load_saved(path)
        named = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
        if not named or not all(isinstance(x, Tensor) for x in weights.values()):
            raise FileError(f"{path} cannot be read: it has no weights by name")
        return dict(weights)

    def found(self) -> Run:
        """The run as it is in the folder now."""
        self.flush()
        run = Follower(self.path).run
        for note in run.notes:
            warnings.warn(f"{self.path}: {note}", stacklevel=2)
        return run

    def finish(self) -> None:
        """Write what there is, and that nothing will be added."""
        self.flush()
        self.records.close()
        if self._done:
            (self.path / DONE).touch()
        self.let_go()

    def let_go(self) -> None:
        """Let others write to the folder; nothing more is written by this."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __del__(self) -> None:
        if getattr(self, "_lock", None) is not None:
            self.let_go()


def beside(path: Path) -> Iterator[Path]:
    """The folder, and others beside it for when it has a run already: first, first-2, first-3, ..."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def load(path: str | Path, max_records: int | None = 100_000) -> list[Run]:
    """Read one run or many.

    A run of many that cannot be read is left out with a warning that names it, and so is a record whose line is
    damaged; `Run.notes` says of each run what is missing.

    Args:
        path: the folder of a run, or one that has such folders beneath it, as that of ``layerpace compare``.
        max_records: of each kind; of more every second one goes, and so on. None: all.

    Returns:
        The runs, in the order of their folders. Runs of the same name have the path of their folder as name.

    Raises:
        FileNotFoundError: there is no run.
        FileError: no run can be read; a ValueError that names file, line and field.
    """
    runs, refused = load_some(path, max_records)
    for line in (*refused, *(f"{run.path}: {note}" for run in runs for note in run.notes)):
        warnings.warn(printable(line), stacklevel=2)
    return runs


def load_some(path: str | Path, max_records: int | None = None) -> tuple[list[Run], list[str]]:
    """`load` without warnings: the runs, and of each that cannot be read a line that says why.

    Raises:
        FileNotFoundError: there is no run.
        FileError: none can be read.
    """
    root = Path(path)
    if root.name in (RUN, RECORDS) and root.is_file():
        root = root.parent
    folders = find(root)
    if not folders:
        what = "holds no run" if root.is_dir() else "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"{path} {what}: looked for {RUN} or {RECORDS} in it and in folders down to {DEPTH} levels beneath"
        )
    found, refused = [], []
    for folder in folders:
        try:
            found.append((folder, Follower(folder, max_records).run))
        except (FileError, OSError) as error:
            refused.append(str(error))
    if not found:
        more = f" (and {len(refused) - 1} more runs)" if len(refused) > 1 else ""
        raise FileError(f"{refused[0]}{more}")
    names = [run.name for _, run in found]
    runs = [
        dataclasses.replace(run, name=str(folder.relative_to(root))) if names.count(run.name) > 1 else run
        for folder, run in found
    ]
    return runs, [f"left out: {line}" for line in refused]


def find(path: str | Path, depth: int = DEPTH) -> list[Path]:
    """Folders of runs: ``path`` itself, else those beneath it down to ``depth`` levels, sorted by path."""
    root = Path(path)
    if is_run(root):
        return [root]
    if depth == 0 or not root.is_dir():
        return []
    below = sorted(Path(entry) for entry in os.scandir(root) if _is_folder(entry) and not entry.name.startswith("."))
    return [found for folder in below for found in find(folder, depth - 1)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def is_run(path: Path) -> bool:
    """Whether a folder holds a run."""
    records = path / RECORDS
    return (path / RUN).exists() or (records.exists() and records.stat().st_size > 0)


def json_like(value: Any) -> Any:
    """What JSON can hold; of anything else its repr."""
    if isinstance(value, Mapping):
        return {str(key): json_like(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_like(item) for item in value]
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
