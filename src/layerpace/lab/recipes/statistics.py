"""Tests over seeds: differences and their confidence intervals, and the verdicts that follow from them.

Runs of one seed start from the same weights and see the same batches, so methods are compared seed by seed wherever
both have the same seeds: the differences' mean, and Student's interval of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .recipe import Verdict

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; infinite where there is one value only.

    Attributes:
        n: number of values.
    """

    mean: float
    low: float
    high: float
    n: int

    def text(self, scale: float = 1.0, unit: str = "", digits: int = 2) -> str:
        """ "+1.20 [0.85, 1.55]", times ``scale``."""
        if not math.isfinite(self.low):
            return f"{scale * self.mean:+.{digits}f}{unit} (one seed)"
        low, high = (scale * end for end in (self.low, self.high))
        return f"{scale * self.mean:+.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's confidence interval of the mean.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value, got none")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    from scipy.stats import t  # comes with scikit-learn

    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Interval:
    """Of the mean of a - b, paired: value i of both is of the same seed.

    Raises:
        ValueError: different numbers of values, or none.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many: got {len(a)} and {len(b)}")
    return interval([x - y for x, y in zip(a, b, strict=True)], level)


def above(found: Interval, threshold: float = 0.0) -> Verdict:
    """Whether a mean is above the threshold: "holds" if the whole interval is, "does not hold" if it is below."""
    if found.low > threshold:
        return "holds"
    return "does not hold" if found.high < threshold else "not decided"


def below(found: Interval, threshold: float = 0.0) -> Verdict:
    """Whether a mean is below the threshold; see `above`."""
    return above(Interval(-found.mean, -found.high, -found.low, found.n), -threshold)


def equal(found: Interval, margin: float) -> Verdict:
    """Whether a difference is within +-margin: "holds" if its whole interval is, "does not hold" if all is outside."""
    if -margin < found.low and found.high < margin:
        return "holds"
    return "does not hold" if found.low > margin or found.high < -margin else "not decided"


def every(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several parts: it holds if all do, and does not if one does not."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts and all(verdict == "holds" for verdict in verdicts) else "not decided"


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation of scores in [0, 1], as "87.71 ± 0.12%"; no deviation for one."""
    mean = f"{100 * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {100 * statistics.stdev(values):.{digits}f}%" if len(values) > 1 else f"{mean}%"
