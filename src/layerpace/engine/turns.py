"""The steps of an optimizer, one after the other: another thread waits, and a child of a fork does not."""

from __future__ import annotations

import os
from threading import RLock, get_ident
from types import TracebackType
from weakref import WeakSet


class Turns:
    """A context manager that is one step: a second thread waits for the first, and a step within a step is an error.

    A child of ``os.fork`` has none of its parent's threads, and one that was in the middle of a step would keep it
    waiting forever: there all turns begin anew.

    Attributes:
        torn: another thread was in the middle of a step when this process was forked, which nobody will end.
    """

    def __init__(self) -> None:
        # Not a plain lock: a signal handler may come between any two lines of the thread that has it.
        self._lock = RLock()
        self._inside = False
        self._thread = 0
        self.torn = False
        _ALL.add(self)

    def __enter__(self) -> Turns:
        self._lock.acquire()
        if self._inside:
            self._lock.release()
            raise RuntimeError(
                "step() was called within a step of the same optimizer (by a signal handler, a hook, or a direction or "
                "rule of your own), which is half done: note it there, and call step() afterwards"
            )
        self._thread, self._inside = get_ident(), True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        self._lock.release()

    def _begin_anew(self) -> None:
        """In a child: unless the thread that forked is in the middle of a step itself, and goes on with it."""
        if self._inside and self._thread == get_ident():
            return
        self.torn, self._inside, self._lock = self._inside, False, RLock()


_ALL: WeakSet[Turns] = WeakSet()


def _in_child() -> None:
    for turns in list(_ALL):
        turns._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
