"""The run folder: what is on disk at any moment is enough to go on.

    OUT/config.json                      the request; --resume demands the same one
    OUT/results.json, plots/*.png        written at the end
    OUT/runs/METHOD-sSEED-HASH/
        config.json                      this run's part of the request
        curve.jsonl                      one line an evaluation
        run.json, records.jsonl, initial.pt
                                         the layers' updates, and the curve once more: `layerpace.monitors.folder`
        checkpoint.pt                    model, optimizer, generators, and the length of curve.jsonl
        weights.pt                       the final weights; checkpoint.pt is deleted then
        DONE                             the run's result

Files are written aside and renamed, or grow by whole lines. Going on from a checkpoint first cuts curve.jsonl to the
length that it had then, and the run's monitor cuts its records, so no line is lost or repeated whenever the process was
killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ..monitors.folder import INITIAL
from ..monitors.follower import RECORDS, RUN
from .errors import LabError, UsageError

CONFIG, RESULTS, DONE, LOCK = "config.json", "results.json", "DONE", ".lock"
ASIDE = ".overwritten"  # what --overwrite is about to delete
KIND = "layerpace compare"  # marks config.json as ours
CURVE = "curve.jsonl"
CHECKPOINT, WEIGHTS = "checkpoint.pt", "weights.pt"


def without_nan(value: Any) -> Any:
    """JSON has no nan or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def digest(value: Any, length: int = 8) -> str:
    """`length` hexadecimal digits that change with the content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def write(path: Path, content: str | bytes) -> None:
    """Write aside, flush to disk, rename: `path` holds the old content or the new, never a part."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def make_folder(path: Path) -> None:
    """Make the folder of --out if need be; a UsageError if it cannot be."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file, not a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be made: {error.strerror}") from None


class RunFolder:
    """One run's files; with ``make`` off a folder that another process, rank 0, has made and writes to."""

    def __init__(self, path: Path, config: Mapping[str, Any], make: bool = True) -> None:
        self.path, self.config = path, config
        if not make:
            return
        path.mkdir(parents=True, exist_ok=True)
        if not (path / CONFIG).exists():
            write(path / CONFIG, to_json(config, indent=2))

    def kept(self) -> dict[str, Any]:
        """What config.json says."""
        config: dict[str, Any] = json.loads((self.path / CONFIG).read_text())
        return config

    def result(self) -> dict[str, Any] | None:
        """What DONE holds, None for a run that is not finished."""
        done = self.path / DONE
        return json.loads(done.read_text()) if done.exists() else None

    def finish(self, result: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        """Keep the final weights, then say that the run is done; the checkpoint has served."""
        self.store(WEIGHTS, weights)
        write(self.path / DONE, to_json(result, indent=2))
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.writelines(to_json(row) + "\n" for row in rows)

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint that knows how long curve.jsonl is now."""
        self.store(CHECKPOINT, {**state, "curve_length": self.length(CURVE)})

    def store(self, name: str, state: Mapping[str, Any]) -> None:
        aside = self.path / f"{name}.part"
        with open(aside, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.path / name)

    def restore(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint; cuts curve.jsonl to where it was then. None: there is none, and no record is left."""
        path = self.path / CHECKPOINT
        state: dict[str, Any] | None = None
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
        if (self.path / CURVE).exists():
            os.truncate(self.path / CURVE, state["curve_length"] if state else 0)
        for name in () if state else (RUN, RECORDS, INITIAL):
            (self.path / name).unlink(missing_ok=True)
        return state

    def length(self, name: str) -> int:
        path = self.path / name
        return path.stat().st_size if path.exists() else 0


class Folder:
    """OUT: opened once a process, held by a lock that goes away with the process.

    With ``own`` off it is held by another process, rank 0, which makes the same comparison with this one.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool, overwrite: bool, own: bool = True) -> None:
        self.path, self.own = path, own
        self.config: dict[str, Any] = {"kind": KIND, **json.loads(to_json(config))}
        self.lock: Lock | None = None
        if not own:
            return
        self.found()  # before anything is written into what is somebody else's
        make_folder(path)
        self.lock = Lock(path / LOCK)
        self.open(resume, overwrite)

    def open(self, resume: bool, overwrite: bool) -> None:
        path = self.path / CONFIG
        found = self.found()
        if overwrite and found is not None:
            # Each folder leaves in one step: a kill on the way leaves no run that is half deleted and looks finished.
            aside = self.path / ASIDE
            for name in ("runs", "plots"):
                if aside.exists():
                    shutil.rmtree(aside)
                if (self.path / name).exists():
                    (self.path / name).rename(aside)
            for name in (RESULTS, CONFIG):
                (self.path / name).unlink(missing_ok=True)
            if aside.exists():
                shutil.rmtree(aside)
            found = None
        if found is not None:
            if not resume:
                raise UsageError(
                    f"{self.path} holds a comparison already: add --resume to go on with it, "
                    "--overwrite to start it again, or --out to write elsewhere"
                )
            self.compare(found)
        else:
            write(path, to_json(self.config, indent=2))

    def found(self) -> dict[str, Any] | None:
        """The comparison that is in the folder already; an error if its config.json is somebody else's."""
        path = self.path / CONFIG
        if (self.path / RUN).exists():
            raise UsageError(f"{self.path} is the folder of a single run: use another --out")
        if not path.exists():
            return None
        try:
            config = json.loads(path.read_text())
        except ValueError:
            config = None
        if not isinstance(config, dict) or config.get("kind") != KIND:
            raise UsageError(f"{path} is not a comparison's: use another --out")
        return config

    def compare(self, found: Mapping[str, Any]) -> None:
        """Refuse to mix two comparisons, naming what differs."""
        changed = changes(found, self.config)
        if changed:
            raise UsageError(f"--resume: {self.path} was made with other settings ({changed}); use another --out")

    def run(self, name: str, config: Mapping[str, Any]) -> RunFolder:
        return RunFolder(self.path / "runs" / name, config, make=self.own)

    def close(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def changes(found: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two configs, in words; "" for nothing."""
    keys = [key for key in {**found, **now} if found.get(key) != now.get(key)]
    return ", ".join(f"{key} was {short(found.get(key))}, now {short(now.get(key))}" for key in keys)


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Lock:
    """An advisory lock on a file; the system releases it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w")  # noqa: SIM115  (held for the life of the object)
        try:
            import fcntl
        except ImportError:  # no such lock on this platform
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise LabError(f"{path.parent} is in use by another layerpace process") from None

    def release(self) -> None:
        self.file.close()
