"""Whether a folder was opened by an earlier attempt of the same torchrun, which starts its processes again.

What torchrun does not know is that ``--resume`` goes on. So a restart goes on in a folder that its own launch has
opened; in any other, also one that refused the launch, the user's flags hold.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from .parallel import launched
from .records import write

LAUNCH = ".launch"  # beside the lock


def launch() -> str | None:
    """A name that all attempts of this torchrun have, and no other launch; None: torchrun does not say.

    The id of its rendezvous, if it has one, is known on all machines; else the folder that it has made for its logs.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none") if launched() else "none"
    if name != "none":
        return name
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE", "") if launched() else ""
    return f"{socket.gethostname()}:{Path(errors).parents[2]}" if errors.count("/") > 3 else None  # /attempt_N/RANK/


def flags(path: Path, resume: bool, overwrite: bool, restarted: bool) -> tuple[bool, bool]:
    """(resume, overwrite) for a folder: what the user said, or to go on with what an earlier attempt has opened."""
    own, place = launch(), path / LAUNCH
    if restarted and own is not None and place.exists() and place.read_text(errors="replace") == own:
        return True, False
    return resume, overwrite


def mark(path: Path) -> None:
    """Note in a folder that this launch has opened it."""
    own = launch()
    if own is not None:
        write(path / LAUNCH, own)
