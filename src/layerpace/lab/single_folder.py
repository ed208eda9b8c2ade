"""The folder of one training that `layerpace train` was told to write: opened once, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..monitors.folder import INITIAL
from ..monitors.follower import RECORDS, RUN
from .errors import UsageError
from .records import CHECKPOINT, CONFIG, CURVE, DONE, LOCK, WEIGHTS, Lock, changes

FAILED = "FAILED"
FILES = (DONE, CHECKPOINT, WEIGHTS, CURVE, RECORDS, INITIAL, RUN, FAILED, CONFIG)  # DONE first: a part is not finished


@contextmanager
def opened(path: Path, config: Mapping[str, Any], resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the lock of a folder that is new, or holds this training and may be gone on with, or is emptied.

    Args:
        path: made if need be.
        config: of the training.
        resume: go on with what is there; where nothing is, start.
        overwrite: delete what is there.

    Raises:
        UsageError: there is another training, or this one and neither ``resume`` nor ``overwrite``, or something else.
        LabError: another process works in it.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file, not a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be made: {error.strerror}") from None
    lock = Lock(path / LOCK)
    try:
        found = kept(path)
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
        yield
    finally:
        lock.release()


def kept(path: Path) -> dict[str, Any] | None:
    """The config of the training in a folder, None for none; an error if there is something else."""
    if not (path / CONFIG).exists():
        if (path / RUN).exists():
            raise UsageError(f"{path} is the folder of a run of your own: use another --out")
        return None
    try:
        config = json.loads((path / CONFIG).read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict) or "kind" in config or "fingerprint" not in config:
        raise UsageError(f"{path / CONFIG} is not a training's: use another --out")
    return config
