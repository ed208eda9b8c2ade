"""Checks of what is logged."""

from __future__ import annotations

from layerpace.engine.common.files import LATEST


def finite(time: float) -> float:
    """The time, in seconds since the epoch; ValueError where it is nan or beyond every calendar."""
    if not abs(time) <= LATEST:
        raise ValueError(f"time must be finite, in seconds since the epoch, got {time!r}")
    return float(time)


def number(key: str, value: float) -> float:
    """The value of a key as a float; TypeError where it is no number."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the value of {key!r} must be a number, got {value!r}") from None
