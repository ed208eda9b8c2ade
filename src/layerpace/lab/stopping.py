"""SIGINT and SIGTERM, answered where nothing is half done.

While a training loop polls, a first signal is only noted: the loop ends its step, writes a checkpoint and
raises `Stopped`. At any other time, or on a second signal, `Stopped` is raised on the spot; files are
written aside and renamed, so that is safe too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped


class StopSignals:
    """Context manager; outside the main thread, where Python delivers no signals, it does nothing."""

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.polled = False
        self.previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in self.signals:
                self.previous[signum] = signal.signal(signum, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self.previous.clear()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.polled and self.received is None:
            self.received = signum
            return
        raise Stopped(signum)

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Within this block the caller looks at `received` after every step."""
        self.polled = True
        try:
            yield
        finally:
            self.polled = False
