"""What a search may choose from: the table [search.space] of a spec."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .cells import SEED

LARGEST, MOST = 1e100, 10**9  # of an end, and of the steps between two
EXAMPLE = "{low = 0.001, high = 1.0, log = true} or a list of choices"


@dataclass(frozen=True)
class Axis:
    """One axis: choices, or an interval.

    Attributes:
        choices: () for an interval.
        low, high: ends, both included; whole numbers where ``whole``.
        log: even on a logarithmic scale.
        step: between values, counted from ``low``; None: all between.
    """

    choices: Sequence[Any] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def size(self) -> int | None:
        """How many values there are; None: countless."""
        if self.choices:
            return len(self.choices)
        if self.low == self.high:
            return 1
        step = self.step or (1 if self.whole else None)
        return None if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def values(self) -> Iterable[Any]:
        """All of them, where ``size`` says that they can be counted."""
        if self.choices:
            return self.choices
        step = self.step or 1
        return (self.low + step * place for place in range(self.size or 0))

    def holds(self, value: Any) -> bool:
        """Whether it is a value of this axis."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if not number(value) or not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        places = (value - self.low) / (self.step or 1)
        return self.step is None or abs(places - round(places)) < 1e-6

    def distribution(self) -> Any:
        """Optuna's."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def text(self) -> Any:
        """JSON-like."""
        return list(self.choices) if self.choices else [self.low, self.high, self.log, self.step, self.whole]


def number(value: Any) -> bool:
    """Whether it is one whose differences and quotients are still numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def read_space(table: Any) -> dict[str, Axis]:
    """The axes of [search.space], by name.

    Raises:
        UsageError: the axis that is wrong, and what it may be.
    """
    if not isinstance(table, Mapping) or not table:
        raise UsageError(f"[search.space] must name what to search for, such as lr = {EXAMPLE}; it is {table!r}")
    if SEED in table:
        raise UsageError("[search.space] seed: the score is the mean over seeds; list them in [grid]")
    return {str(name): read_axis(f"[search.space] {name} = {given!r}", given) for name, given in table.items()}


def read_axis(said: str, given: Any) -> Axis:
    """An axis; ``said`` begins its errors."""
    if isinstance(given, list | tuple):
        plain = all(isinstance(item, bool | int | float | str) for item in given)
        if not given or not plain or len({(type(item), item) for item in given}) < len(given):
            raise UsageError(f"{said}: must list different numbers, words, true or false, at least one")
        return Axis(choices=tuple(given))
    if not isinstance(given, Mapping) or not {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"}:
        raise UsageError(f"{said}: must be {EXAMPLE}, with `step` instead of `log` for even steps")
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    if not number(low) or not number(high) or low > high:
        raise UsageError(f"{said}: low and high must be numbers up to 1e100 in size, low no more than high")
    if not isinstance(log, bool) or (log and low <= 0):
        raise UsageError(f"{said}: log must be true or false, and low above 0 where it is true")
    whole = isinstance(low, int) and isinstance(high, int)
    if whole and max(abs(low), abs(high)) > 2**53:
        raise UsageError(f"{said}: whole numbers must be at most 2^53 in size")
    if step is not None and (not number(step) or step <= 0 or log or (whole and not isinstance(step, int))):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{said}: step must be {kind} above 0, without log")
    if step is not None and (high - low) / step > MOST:
        raise UsageError(f"{said}: there must be at most {MOST:,} steps from low to high")
    if step is not None:  # Optuna would warn and cut
        places = math.floor((high - low) / step + 1e-9)
        high = low + step * places
    return Axis(low=low, high=high, log=log, step=step, whole=whole)
