"""Which figure of a result says how good a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .protocol import Result

SCORES = ("validation_score", "test_score")  # of a training, the first that it has


@dataclass(frozen=True)
class Objective:
    """A key of the result, and which way is better.

    Attributes:
        key: of a finite number in the result; None: the score on held-out examples if the run has any, else on the
            test set (of a grid alone: a search over runs needs held-out examples, or the figure by name).
        mode: "max": higher is better, "min": lower.
    """

    key: str | None = None
    mode: str = "max"

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Objective:
        """From the keys `objective` and `mode` of a spec's table; UsageError where they are not as they should be."""
        key, mode = table.get("objective"), table.get("mode", "max")
        if key is not None and (not isinstance(key, str) or not key):
            raise UsageError(f"objective = {key!r}: must be the name of a figure in the results, such as 'test_score'")
        if mode not in ("max", "min"):
            raise UsageError(f"mode = {mode!r}: must be 'max' (higher is better) or 'min'")
        return cls(key, mode)

    def value(self, result: Result | None) -> float | None:
        """The figure as it is; None for a run that failed or diverged, or whose figure is not finite.

        Raises:
            UsageError: the run did well, but its result has no such figure.
        """
        if result is None or result.get("status") == "diverged":
            return None
        keys = SCORES if self.key is None else (self.key,)
        found = [result[key] for key in keys if result.get(key) is not None]
        if not found:
            if any(key in result for key in keys):  # null: it was no finite number
                return None
            raise UsageError(f"the results have no {' or '.join(keys)}: objective must be one of {names(result)}")
        if isinstance(found[0], bool) or not isinstance(found[0], int | float):
            raise UsageError(f"{keys[0]} is {found[0]!r}, not a number: objective must be one of {names(result)}")
        return float(found[0]) if math.isfinite(found[0]) else None

    def merit(self, result: Result | None) -> float:
        """The same with higher better, minus infinity for None."""
        value = self.value(result)
        if value is None:
            return -math.inf
        return value if self.mode == "max" else -value


def names(result: Result) -> str:
    found = [key for key, item in result.items() if isinstance(item, int | float) and not isinstance(item, bool)]
    return ", ".join(found) or "(it has no numbers at all)"
