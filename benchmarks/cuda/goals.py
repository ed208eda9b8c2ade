"""The goals of the step on a GPU, judged from results.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..methods import UNIT
from .methods import LARGE, OURS

LEAST_SHARE = 0.90  # of the copy's bandwidth, on the large set
BANDWIDTH_BOUND = ("LAMB", "LARS", "PercentDelta", "Layca")
NOISE = 0.02  # of a ratio of times, which else would decide between two equals
MOST_LAUNCHES = 4
FLOORED = "S1"
FLOOR_FACTOR, FLOOR_EXTRA_US = 1.2, 10.0


@dataclass(frozen=True)
class Goal:
    """One goal for one method.

    Attributes:
        kind: what is asked.
        where: the set and how it was stepped.
        value, limit: what was found, and what it may be at least (``at_least``) or at most; value None: not measured.
        met: None: not measured.
    """

    kind: str
    method: str
    where: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


BANDWIDTH = "share of the copy's bandwidth, counting the least traffic"
BYTES = f"time over {UNIT}'s, at most the ratio of their bytes (+{NOISE:.0%})"
LAUNCHES = "kernels and fills a step"
FLOOR = f"microseconds of a replay, at most {FLOOR_FACTOR} x the floor of its traffic + {FLOOR_EXTRA_US:g}"


def judge(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All goals, in the order of the list above, as results.json keeps them."""
    found = [*_bandwidth(results), *_bytes(results), *_launches(results), *_floor(results)]
    return [asdict(goal) | {"met": goal.met} for goal in found]


def _rows(results: Mapping[str, Any], key: str, mode: str) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = results["sets"].get(key, {}).get("modes", {}).get(mode, {}).get("methods", {})
    return rows


def _bandwidth(results: Mapping[str, Any]) -> Iterator[Goal]:
    """On the large set; of the replay where there is one, which leaves the host's work out of it."""
    for name in BANDWIDTH_BOUND:
        mode = "graph" if name in _rows(results, LARGE, "graph") else "eager"
        row = _rows(results, LARGE, mode).get(name)
        share = None if row is None else row["share_of_ceiling"]
        yield Goal(BANDWIDTH, name, f"{LARGE}, {mode}", share, LEAST_SHARE, at_least=True)


def _bytes(results: Mapping[str, Any]) -> Iterator[Goal]:
    for key, found in results["sets"].items():
        for mode in found["modes"]:
            rows = _rows(results, key, mode)
            for name in OURS:
                if name in rows and UNIT in rows:
                    ratio = rows[name]["bytes_per_entry"] / rows[UNIT]["bytes_per_entry"]
                    yield Goal(BYTES, name, f"{key}, {mode}", rows[name]["ratio_by_round"], (1 + NOISE) * ratio)


def _launches(results: Mapping[str, Any]) -> Iterator[Goal]:
    for where, counts in results["launches"]["counted"].items():
        for name, count in counts.items():
            yield Goal(LAUNCHES, name, where, count["kernels"] + count["memsets"], MOST_LAUNCHES)


def _floor(results: Mapping[str, Any]) -> Iterator[Goal]:
    rows = _rows(results, FLOORED, "graph")
    for name in OURS:
        row = rows.get(name)
        floor = 0.0 if row is None else row["us"] * row["share_of_ceiling"]
        us = None if row is None else row["us"]
        yield Goal(FLOOR, name, f"{FLOORED}, graph", us, FLOOR_FACTOR * floor + FLOOR_EXTRA_US)
