"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def aside(path: Path) -> Iterator[BinaryIO]:
    """Write to a file beside ``path`` that takes its place at the end: there is the old content or the new one, never
    a part, whenever the process or the machine stops."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def append(path: Path, data: bytes) -> None:
    """Add to the end of an existing file by one write: a reader sees all of it or nothing.

    Raises:
        OSError: such as a full disk; the file is as it was.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(file).st_size
        try:
            left = memoryview(data)
            while left:  # once, but for a disk that is full or more than 2 GB
                left = left[os.write(file, left) :]
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
