"""The folder of one training that `layerpace train` was told to write: opened once, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..engine.common.files import FileError, read_json
from ..monitors.folder import INITIAL
from ..monitors.follower import RECORDS, RUN
from ..monitors.lock import LOCK as WRITER
from .errors import UsageError
from .launches import flags, mark
from .records import CHECKPOINT, CONFIG, CURVE, DONE, LOCK, WEIGHTS, Lock, changes, make_folder

FAILED = "FAILED"
# DONE first: a part is not finished.
FILES = (DONE, CHECKPOINT, WEIGHTS, CURVE, RECORDS, INITIAL, RUN, WRITER, FAILED, CONFIG)


@contextmanager
def opened(
    path: Path, config: Mapping[str, Any], resume: bool, overwrite: bool, restarted: bool = False
) -> Iterator[None]:
    """Hold the lock of a folder that is new, or holds this training and may be gone on with, or is emptied.

    Args:
        path: made if need be.
        config: of the training.
        resume: go on with what is there; where nothing is, start.
        overwrite: delete what is there.
        restarted: torchrun has started this process again: go on with what an earlier attempt has opened.

    Raises:
        UsageError: there is another training, or this one and neither ``resume`` nor ``overwrite``, or something else.
        LabError: another process works in it.
    """
    kept(path)  # before anything is written into what is somebody else's
    make_folder(path)
    lock = Lock(path / LOCK)
    try:
        found = kept(path)
        resume, overwrite = flags(path, resume, overwrite, restarted)
        if found is not None and overwrite:
            for name in FILES:
                (path / name).unlink(missing_ok=True)
        elif found is not None:
            changed = changes(found, config)
            if not resume:
                raise UsageError(
                    f"{path} holds a training already: add --resume to go on with it, --overwrite to start it again, "
                    "or --out to write elsewhere"
                )
            if changed:
                raise UsageError(f"--resume: {path} was made with other settings ({changed}); use another --out")
        mark(path)
        yield
    finally:
        lock.release()


def kept(path: Path) -> dict[str, Any] | None:
    """The config of the training in a folder, None for none; an error if there is something else."""
    if not (path / CONFIG).exists():
        if (path / RUN).exists():
            raise UsageError(f"{path} is the folder of a run of your own: use another --out")
        if (path / DONE).exists():
            raise UsageError(f"{path} has a {DONE} and no {CONFIG}, so whose it is nobody knows: use another --out")
        return None
    try:
        config = read_json(path / CONFIG).value
    except FileError:
        config = None
    if not isinstance(config, dict) or "kind" in config or "fingerprint" not in config:
        raise UsageError(f"{path / CONFIG} is not a training's: use another --out")
    return config
