"""What a sink is: something that takes numbers by name, at a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from layerpace.extras import how_to_install


@runtime_checkable
class Sink(Protocol):
    """Takes numbers; an object of the user's with ``log`` alone will do.

    A sink may have ``flush()`` and ``close()`` too. Where it has ``timed = True``, its ``log`` takes the time of the
    numbers, in seconds since the epoch, as a third argument.
    """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take ``values``: those of layers are "QUANTITY/LAYER", any other name is a scalar of the user's."""
        ...


def log(sink: Any, values: Mapping[str, float], step: int, time: float | None = None) -> None:
    """Hand numbers to a sink, with their time (seconds since the epoch) where it takes one."""
    if time is not None and getattr(sink, "timed", False):
        sink.log(values, step, time)
    else:
        sink.log(values, step)


def flush(sink: Any) -> None:
    """Call ``sink.flush()`` if there is one."""
    _call(sink, "flush")


def close(sink: Any) -> None:
    """Call ``sink.close()`` if there is one."""
    _call(sink, "close")


def _call(sink: Any, name: str) -> None:
    method = getattr(sink, name, None)
    if callable(method):
        method()


def missing(sink: str, library: str) -> ImportError:
    """The error for an adapter whose library is not installed."""
    return ImportError(f"{sink} needs {library}: {how_to_install(library)}")
