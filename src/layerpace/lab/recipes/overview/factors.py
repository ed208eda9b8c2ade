"""Intervals of logs, said as factors."""

from __future__ import annotations

import math

from ..statistics import Interval


def factor(found: Interval, digits: int = 2) -> str:
    """ "1.20 [1.05, 1.37]" of the interval of a log."""
    low, high = (math.exp(end) if math.isfinite(end) else max(end, 0.0) for end in (found.low, found.high))
    return f"{math.exp(found.mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
