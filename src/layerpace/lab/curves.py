"""What the plots draw: the records of a method's runs, averaged over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..monitors.folder import load
from ..monitors.history import History
from .records import CURVE, RunFolder


@dataclass(frozen=True)
class Curve:
    """Score against steps: mean over seeds, and their lowest and highest; `ended` marks divergence."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    ended: bool

    def smoothed(self, window: int) -> Curve:
        mean, low, high = (average(line, window) for line in (self.mean, self.low, self.high))
        return Curve(self.steps, mean, low, high, self.ended)


def average(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    return [statistics.fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


class MethodRecords:
    """The runs of one row of the results."""

    def __init__(self, label: str, folders: Sequence[Path]) -> None:
        self.label = label
        self.runs = [RunFolder(folder, {}) for folder in folders]
        results = [result for run in self.runs if (result := run.result()) is not None]  # all are finished
        self.diverged = [result["status"] != "done" for result in results]
        self.layers: list[str] = results[0]["layers"] if results else []

    @property
    def title(self) -> str:
        return f"{self.label} (diverged)" if self.diverged and all(self.diverged) else self.label

    def curve(self) -> Curve:
        """Over the seeds that did not diverge; if all did, over all, to where the first one ends."""
        lost = all(self.diverged)
        kept = [run.read(CURVE) for run, out in zip(self.runs, self.diverged, strict=True) if lost or not out]
        length = min((len(rows) for rows in kept), default=0)
        scores = [[rows[i]["test_score"] for rows in kept] for i in range(length)]
        return Curve(
            steps=[kept[0][i]["step"] for i in range(length)],
            mean=[statistics.fmean(s) for s in scores],
            low=[min(s) for s in scores],
            high=[max(s) for s in scores],
            ended=lost,
        )

    @cached_property
    def histories(self) -> list[History]:
        """What the monitor of each run recorded."""
        return [run.history for folder in self.runs for run in load(folder.path)]

    def layer_figures(self, quantity: str, logarithmic: bool) -> dict[str, dict[int, float]]:
        """{layer: {step: value}}: mean over seeds, geometric if asked, of one of `layerpace.monitors.quantities`."""
        mean: Any = geometric if logarithmic else statistics.fmean
        found = {}
        for layer in self.layers:
            gathered: dict[int, list[float]] = {}
            for history in self.histories:
                for step, value in zip(*history.series(quantity, layer), strict=True):
                    if math.isfinite(value) and (value > 0 or not logarithmic):
                        gathered.setdefault(step, []).append(value)
            found[layer] = {step: mean(values) for step, values in sorted(gathered.items())}
        return found


def geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def pick(steps: Sequence[int], wanted: int) -> list[int]:
    """Up to `wanted` of the recorded steps, evenly from the first to the last."""
    if len(steps) <= wanted:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (wanted - 1))] for i in range(wanted)]
