"""One writer of a run's folder: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from threading import RLock
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # there is no such lock on this platform
    fcntl = None

LOCK = ".writer"
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

# What this process holds: the lock of a file is of the process, whose monitors settle among themselves who writes.
_HELD: dict[Path, Lock] = {}
_GUARD = RLock()


class Lock:
    """A hold on a folder, which all of this process share; made by `hold`."""

    def __init__(self, path: Path) -> None:
        self.path, self._users = path, 0
        self._file: int | None = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                owner = os.pread(self._file, 200, 0).decode(errors="replace").strip()
                self._close()
                raise BlockingIOError(
                    f"{path} is being written by another process{f' ({owner!r})' if owner else ''}: wait for its end, "
                    "or give another folder"
                ) from None
            return  # a file system that has no locks
        with contextlib.suppress(OSError):  # a full disk: the lock holds, and does not say whose it is
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def share(self) -> Lock:
        """Count one more user."""
        self._users += 1
        return self

    def release(self) -> None:
        """Let go; the last user's letting go is the process's."""
        with _GUARD:
            self._users -= 1
            if self._users <= 0 and _HELD.get(self.path) is self:
                del _HELD[self.path]
                self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def hold(path: Path) -> Lock:
    """The lock of a folder that exists.

    Raises:
        BlockingIOError: another process writes to it.
    """
    place = path.resolve()
    with _GUARD:
        if place not in _HELD:
            _HELD[place] = Lock(place)
        return _HELD[place].share()


def after_fork() -> None:
    """A child of fork has copies of the parent's locks, which would keep them when the parent has ended."""
    global _GUARD
    _GUARD = RLock()
    for lock in _HELD.values():
        lock._close()
    _HELD.clear()
