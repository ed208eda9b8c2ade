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
    return extent_within(batches, steps, slack)[0]


def extent_within(batches: Sequence[float], steps: Sequence[float | None], slack: float = SLACK) -> tuple[float, float]:
    """(lowest, highest) value that `extent` may have: the same if it is known.

    Where the target was not reached, it is somewhere after the batch before; where perfect scaling does not end,
    after the last batch: (last, inf). (nan, nan) if the first batch has no steps.
    """
    if steps[0] is None:
        return math.nan, math.nan
    last, excess = float(batches[0]), 0.0  # the last batch within, and log of its steps / those of perfect scaling
    for batch, value, least in zip(batches, steps, perfect(batches, steps), strict=True):
        if value is None:
            return last, float(batch)
        if (now := math.log(value / least)) > math.log(slack):
            share = (math.log(slack) - excess) / (now - excess)
            found = math.exp(math.log(last) + share * math.log(batch / last))
            return found, found
        last, excess = float(batch), now
    return last, math.inf


def slopes(batches: Sequence[float], steps: Sequence[float]) -> list[float]:
    """d log steps / d log batch between neighbours: -1 is perfect scaling, 0 is none."""
    pairs = list(zip(batches, steps, strict=True))
    return [math.log(s / r) / math.log(b / a) for (a, r), (b, s) in pairwise(pairs)]
