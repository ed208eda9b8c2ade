"""Checks of hyperparameters: one place for the wording of a range error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from layerpace.parts import Part, described

Kind = TypeVar("Kind", bound=Part)


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
) -> None:
    """Raise unless ``value`` is a number of the range; nan is outside of every range, and inf too unless ``infinite``.

    A tensor that lives on an accelerator is not read: that would make the step wait for the device.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is outside of the range; the message has the value and the range.
    """
    device = getattr(value, "device", None)
    if device is not None and device.type != "cpu":
        return
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below and (infinite or math.isfinite(number))):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
        raise ValueError(f"{name} must be in {interval}, got {value!r}")


def check_betas(betas: Any) -> None:
    """Raise unless ``betas`` is a pair of numbers in [0, 1).

    Raises:
        ValueError: not a pair, or one of them is out of range.
    """
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    for k, beta in enumerate(betas):
        check_range(f"betas[{k}]", beta, 0, 1, open_high=True)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def by_name(argument: str, value: Any, kind: type[Kind], table: Mapping[str, type[Kind]]) -> Kind:
    """The part of that name with its defaults, ``value`` itself if it is one, or what it describes (`described`).

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor an instance; a class is not an instance.
    """
    value = described(value, argument)
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        example = next(iter(table.values())).__name__
        raise TypeError(f"{argument} must be a name or an instance such as {argument}s.{example}(), got {value!r}")
    check_choice(argument, value, tuple(table))
    return table[value]()
