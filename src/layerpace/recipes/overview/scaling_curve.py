"""What a curve of steps to a target against the batch size says: where perfect scaling ends, and how steep it is.

Perfect scaling halves the steps when the batch doubles: steps(B) = steps(B0) B0 / B, from the smallest batch B0 on.

Reference: Shallue et al., "Measuring the effects of data parallelism on neural network training" (2019), section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

SLACK = 1.5  # times the steps of perfect scaling: where it ends


def perfect(batches: Sequence[float], steps: Sequence[float | None]) -> list[float]:
    """The steps of perfect scaling from the first batch size that has steps."""
    at = next(place for place, value in enumerate(steps) if value is not None)
    first = steps[at]
    assert first is not None
    return [first * batches[at] / batch for batch in batches]


def extent(batches: Sequence[float], steps: Sequence[float | None], slack: float = SLACK) -> float:
    """The largest batch with at most ``slack`` times the steps of perfect scaling, on the log-log line between sizes.

    Args:
        batches: rising.
        steps: None: the target was not reached, which ends perfect scaling there.

    Returns:
        The last batch if perfect scaling does not end within them; nan if the first batch has no steps.
    """
    if steps[0] is None:
        return math.nan
    ideal = perfect(batches, steps)
    before: tuple[float, float] | None = None  # (log batch, log excess) of the last one within
    for batch, value, least in zip(batches, steps, ideal, strict=True):
        excess = math.inf if value is None else math.log(value / least)
        if excess > math.log(slack):
            if before is None or math.isinf(excess):
                return math.exp(before[0]) if before else float(batch)
            share = (math.log(slack) - before[1]) / (excess - before[1])
            return math.exp(before[0] + share * (math.log(batch) - before[0]))
        before = (math.log(batch), excess)
    return float(batches[-1])


def slopes(batches: Sequence[float], steps: Sequence[float]) -> list[float]:
    """d log steps / d log batch between neighbours: -1 is perfect scaling, 0 is none."""
    pairs = list(zip(batches, steps, strict=True))
    return [math.log(s / r) / math.log(b / a) for (a, r), (b, s) in pairwise(pairs)]
