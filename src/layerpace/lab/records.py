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
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from ..engine.common.files import FileError, Part, load_saved, parse_json, read_bytes, read_json
from ..engine.common.printable import printable
from ..monitors.folder import INITIAL
from ..monitors.follower import RECORDS, RUN
from .errors import LabError, UsageError

CONFIG, RESULTS, DONE, LOCK = "config.json", "results.json", "DONE", ".lock"
ASIDE = ".overwritten"  # what --overwrite is about to delete
KIND = "layerpace compare"  # marks config.json as ours
CURVE = "curve.jsonl"
FIGURES = ("test_score", "validation_score", "steps_to_target", "step_ms", "optimizer_ms", "unevenness")  # of DONE
AGAIN = "delete it, and the run starts again"
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
    try:
        with open(aside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        dropped(aside)
        raise OSError(error.errno, error.strerror, str(path)) from None  # that of a full disk names no file
    os.replace(aside, path)


def dropped(*paths: Path) -> None:
    """Remove files, as far as that can be."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a run that is done needs no more, and has if it was killed right before or after DONE was written."""
    dropped(*(folder / name for name in (CHECKPOINT, f"{CHECKPOINT}.part", f"{WEIGHTS}.part")))


class Noting:
    """A file that keeps the error of a write: torch raises another one, which does not say that the disk is full."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.error = file, OSError()

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


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
        """What config.json says.

        Raises:
            FileError: it cannot be read.
        """
        return read_json(self.path / CONFIG).table()

    def result(self) -> dict[str, Any] | None:
        """What DONE holds, None for a run that is not finished; one that is has no checkpoint any more.

        Raises:
            LabError: DONE is no result, so nobody may say whether the run is finished.
        """
        path = self.path / DONE
        if not path.exists():
            return None
        try:
            found = result_in(read_json(path))
        except FileError as error:
            raise LabError(f"{error}; delete it to make the run again") from None
        tidy(self.path)
        return found

    def finish(self, result: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        """Keep the final weights, then say that the run is done; the checkpoint has served."""
        self.store(WEIGHTS, weights)
        write(self.path / DONE, to_json(result, indent=2))
        tidy(self.path)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self.path / name
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(to_json(row) + "\n" for row in rows)
        except OSError as error:
            raise full(path, error) from None

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file; [] where there is none.

        Raises:
            LabError: one is no JSON object; it is named.
        """
        path = self.path / name
        return rows_of(path, read_bytes(path)) if path.exists() else []

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint that knows how long curve.jsonl is now."""
        self.store(CHECKPOINT, {**state, "curve_length": self.length(CURVE)})

    def store(self, name: str, state: Mapping[str, Any]) -> None:
        aside = self.path / f"{name}.part"
        try:
            with open(aside, "wb") as file:
                noting = Noting(file)
                try:
                    torch.save(dict(state), noting)  # type: ignore[arg-type]
                except RuntimeError:
                    if noting.error.errno is None:
                        raise
                    raise noting.error from None
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            dropped(aside)
            raise full(self.path / name, error) from None
        os.replace(aside, self.path / name)

    def restore(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint; cuts curve.jsonl to where it was then. None: there is none, and no record is left.

        Raises:
            LabError: the checkpoint cannot be read, or curve.jsonl is not what it was then; nothing is changed.
        """
        path, curve = self.path / CHECKPOINT, self.path / CURVE
        state: dict[str, Any] | None = None
        if path.exists():
            state = self.checked(device)
        if curve.exists():
            os.truncate(curve, state["curve_length"] if state else 0)
        for name in () if state else (RUN, RECORDS, INITIAL):
            (self.path / name).unlink(missing_ok=True)
        return state

    def checked(self, device: torch.device) -> dict[str, Any]:
        """The checkpoint, if it and what it goes on with are whole."""
        path, curve = self.path / CHECKPOINT, self.path / CURVE
        try:
            state = load_saved(path, device)
        except FileError as error:
            raise LabError(f"{error}; {AGAIN}") from None
        length = state.get("curve_length") if isinstance(state, dict) else None
        if type(length) is not int:
            raise self.strange("it holds something else")
        if not 0 <= length <= self.length(CURVE):
            raise LabError(
                f"{printable(curve)} has {self.length(CURVE)} bytes, and had {length} when {CHECKPOINT} was written: "
                f"it was cut or lost; delete {CHECKPOINT}, and the run starts again"
            )
        rows_of(curve, read_bytes(curve)[:length] if length else b"")
        return dict(state)

    def strange(self, reason: str) -> LabError:
        """The error for a checkpoint that does not fit its run."""
        return LabError(f"{printable(self.path / CHECKPOINT)} is not this run's: {printable(reason)[:200]}; {AGAIN}")

    def length(self, name: str) -> int:
        path = self.path / name
        return path.stat().st_size if path.exists() else 0


def rows_of(path: Path, content: bytes) -> list[dict[str, Any]]:
    """JSON objects, a line each; a LabError names the line that is none."""
    rows = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        try:
            rows.append(parse_json(line, "").table())
        except FileError as error:
            reason = str(error).rpartition(": ")[2]
            raise LabError(
                f"{printable(path)}, line {number}: {reason}; delete {DONE} and {CHECKPOINT} beside it, and the run is "
                "made again"
            ) from None
    return rows


def result_in(part: Part) -> dict[str, Any]:
    """The result of a training; a FileError names the field that it has not."""
    status = part["status"]
    if status.text() not in ("done", "diverged"):
        raise status.wrong("done or diverged")
    well = status.text() == "done"
    for name in FIGURES:
        if part[name].value is not None or (well and name == "test_score"):
            part[name].number()
    if not well:
        part["diverged_at"].whole()
    for layer in part["layers"].items():
        layer.text()
    return part.table()


def full(path: Path, error: OSError) -> LabError:
    """The error for a file of a run that cannot be written."""
    return LabError(
        f"{printable(path)} cannot be written: {error.strerror or error}; what was written before it is whole: once "
        "there is room, go on with --resume"
    )


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
            config = read_json(path).value
        except FileError:
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
