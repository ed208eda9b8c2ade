"""Comparisons of steps to a target, seed by seed, where a seed may have missed it.

A seed that missed the target is one of the slow ones: the mean over the others would be too low. So a comparison with
such a seed has no interval and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..recipe import Data, Verdict
from ..statistics import Interval, interval
from .factors import factor
from .scaling_curve import extent_within


@dataclass(frozen=True)
class Compared:
    """A log ratio of steps over seeds.

    Attributes:
        found: its interval; None: some seed missed the target, or a method was not run.
        reached: seeds that have a ratio.
        seeds: how many there are; 0: not run.
    """

    found: Interval | None
    reached: int
    seeds: int

    @property
    def text(self) -> str:
        if self.found is not None:
            return factor(self.found)
        return f"target reached by {self.reached} of {self.seeds} seeds" if self.seeds else "not run at this scale"

    def verdict(self, test: Callable[[Interval], Verdict]) -> Verdict:
        return "not decided" if self.found is None else test(self.found)


def compared(logs: Sequence[float | None]) -> Compared:
    """Of the log ratio of each seed; None: it missed the target."""
    known = [value for value in logs if value is not None]
    whole = len(known) == len(logs) > 0
    return Compared(interval(known) if whole else None, len(known), len(logs))


def by_seed(data: Data, name: str) -> list[list[float | None]]:
    """For each seed its steps at every batch size; None: the target was not reached."""
    return seed_curves(data["methods"][name])


def seed_curves(rows: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    return [list(values) for values in zip(*(row["steps"] for row in rows), strict=True)]


def log_ratios(data: Data, a: tuple[str, int], b: tuple[str, int]) -> list[float | None]:
    """Log of steps at (method, place of the batch) a over those at b, of each seed; None: it missed at one of them.

    Empty where a method was not run.
    """
    if not {a[0], b[0]} <= set(data["methods"]):
        return []
    both = zip(by_seed(data, a[0]), by_seed(data, b[0]), strict=True)
    pairs = [(first[a[1]], second[b[1]]) for first, second in both]
    return [None if x is None or y is None else math.log(x / y) for x, y in pairs]


def ratio(data: Data, a: tuple[str, int], b: tuple[str, int], times: float = 1.0) -> Compared:
    """Log of steps at (method, place of the batch) a over those at b, times a factor, paired by seed."""
    logs = log_ratios(data, a, b)
    return compared([None if value is None else value + math.log(times) for value in logs])


def mean_steps(row: Mapping[str, Any]) -> float | None:
    """Geometric mean over the seeds that reached the target, if at least half of them did; see `missed`."""
    logs = [math.log(value) for value in row["steps"] if value is not None]
    return math.exp(sum(logs) / len(logs)) if 2 * len(logs) >= len(row["steps"]) and logs else None


def missed(row: Mapping[str, Any]) -> bool:
    """Whether a seed is missing in `mean_steps`, which then is too low."""
    return None in row["steps"]


Ends = list[float | None]


def extents(batches: Sequence[float], methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Ends]]:
    """{method: [lowest, highest] batch where perfect scaling may end, of each seed}; see `extent_within`.

    None as the highest: after the last batch. Both None: the target is missed at the smallest batch.
    """
    found = {name: [extent_within(batches, steps) for steps in seed_curves(rows)] for name, rows in methods.items()}
    return {
        name: [[round(end, 2) if math.isfinite(end) else None for end in ends] for ends in rows]
        for name, rows in found.items()
    }


def mean_extent(ends: Sequence[Ends]) -> float | None:
    """Geometric mean over seeds of the lowest batch where perfect scaling may end; None: a seed has none."""
    logs = [math.log(low) for low, _ in ends if low is not None]
    return math.exp(sum(logs) / len(logs)) if len(logs) == len(ends) > 0 else None


def said_extent(ends: Sequence[Ends]) -> str:
    """ "543"; "more than 543" where some seed's end is not known."""
    mean = mean_extent(ends)
    if mean is None:
        return f"? ({sum(low is not None for low, _ in ends)} of {len(ends)} seeds reach the target)"
    return f"{mean:.0f}" if all(low == high for low, high in ends) else f"more than {mean:.0f}"


def octaves(ends: Sequence[Ends], other: Sequence[Ends]) -> tuple[list[float], list[float]] | None:
    """(least, most) log2 of a method's extent over another's, seed by seed; infinite where it is open.

    None: a seed missed the target at the smallest batch.
    """
    least, most = [], []
    for (low, high), (low2, high2) in zip(ends, other, strict=True):
        if low is None or low2 is None:
            return None
        least.append(math.log2(low / high2) if high2 is not None else -math.inf)
        most.append(math.log2(high / low2) if high is not None else math.inf)
    return least, most
