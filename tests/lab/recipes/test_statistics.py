"""Intervals against scipy and by hand, and the verdicts that follow from them."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from layerpace.lab.recipes.statistics import Interval, above, below, difference, equal, every, interval, percent

VALUES = [0.3, 0.5, 0.1, 0.9]


def test_intervals_are_students() -> None:
    found = interval(VALUES)
    low, high = stats.t.interval(0.95, 3, loc=0.45, scale=stats.sem(VALUES))
    assert found.mean == pytest.approx(0.45) and (found.low, found.high) == pytest.approx((low, high))
    assert interval(VALUES, 0.5).high < found.high


def test_differences_are_paired() -> None:
    """The seeds differ far more than the methods do."""
    seeds = [0.1, 0.5, 0.9]
    found = difference([seed + d for seed, d in zip(seeds, (0.010, 0.011, 0.012), strict=True)], seeds)
    test = stats.ttest_1samp([0.010, 0.011, 0.012], 0)
    assert found.mean == pytest.approx(0.011) and above(found) == "holds"
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_one_value_decides_nothing() -> None:
    found = difference([1.0], [0.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert above(found) == below(found) == equal(found, 5.0) == "not decided"
    assert found.text() == "+1.00 (one seed)"


def test_verdicts() -> None:
    up, across, down = (Interval(mean, mean - 1, mean + 1, 3) for mean in (2.0, 0.5, -2.0))
    assert [above(found) for found in (up, across, down)] == ["holds", "not decided", "does not hold"]
    assert [below(found) for found in (up, across, down)] == ["does not hold", "not decided", "holds"]
    assert above(up, 0.9) == "holds" and above(up, 1.1) == "not decided" and above(up, 3.5) == "does not hold"
    assert below(down, -3.5) == "does not hold" and below(down, -0.9) == "holds"
    assert equal(across, 1.6) == "holds" and equal(across, 1.4) == "not decided" and equal(up, 0.9) == "does not hold"
    assert every(["holds", "holds"]) == "holds" and every([]) == "not decided"
    assert every(["holds", "not decided"]) == "not decided"
    assert every(["not decided", "does not hold"]) == "does not hold"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
    with pytest.raises(ValueError, match="2 and 1"):
        difference([1.0, 2.0], [1.0])


def test_texts() -> None:
    assert Interval(0.0123, 0.0101, 0.0145, 3).text(100, " points") == "+1.23 points [1.01, 1.45]"
    assert percent([0.8771]) == "87.71%" and percent([0.87, 0.88, 0.89]) == "88.00 ± 1.00%"
