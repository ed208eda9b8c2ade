"""What a sink is: something that takes numbers by name, at a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from layerpace.engine.common.extras import how_to_install


@runtime_checkable
class Sink(Protocol):
    """Takes numbers; an object of the user's with ``log`` alone will do.

    A sink may have ``flush()`` and ``close()`` too. Where it has ``timed = True``, its ``log`` takes the time of the
    numbers, in seconds since the epoch, as a third argument. Where it has ``settle(folder)``, it is told the run's
    folder before it gets any.
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


def settle(sink: Any, folder: Path) -> None:
    """Call ``sink.settle(folder)`` if there is one: a sink that writes files puts them there unless told otherwise."""
    method = getattr(sink, "settle", None)
    if callable(method):
        method(folder)


def name_of(sink: Any) -> str:
    """A sink in words."""
    return str(getattr(sink, "name", type(sink).__name__)) if isinstance(sink, Function) else type(sink).__name__


class Function:
    """A function of ``(values, step)`` as a sink.

    Raises:
        TypeError: it takes something else.
    """

    def __init__(self, function: Callable[[Mapping[str, float], int], object]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        try:
            inspect.signature(function).bind({}, 0)
        except TypeError:
            raise TypeError(
                f"a function that is a sink takes (values, step), {self.name} takes {inspect.signature(function)}"
            ) from None
        except ValueError:  # a builtin that does not say what it takes
            pass

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Call it."""
        self.function(values, step)


class Copied:
    """What a copy of a sink is, also one that was pickled: files and connections stay with the original."""

    def __init__(self, what: str) -> None:
        self.what = what

    def log(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        raise RuntimeError(f"this is a copy of a {self.what}, and takes nothing: make a sink of its own")

    def __repr__(self) -> str:
        return f"<copy of a {self.what}, without its file or connection>"


class Owner:
    """A sink that owns a file or a connection: `Copied` stands in the place of its copies."""

    def __reduce__(self) -> tuple[type[Copied], tuple[str]]:
        return Copied, (type(self).__name__,)


def _call(sink: Any, name: str) -> None:
    method = getattr(sink, name, None)
    if callable(method):
        method()


def missing(sink: str, library: str) -> ImportError:
    """The error for an adapter whose library is not installed."""
    return ImportError(f"{sink} needs {library}: {how_to_install(library)}")
