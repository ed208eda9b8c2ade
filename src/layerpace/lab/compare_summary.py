"""What the runs add up to: one row a method, at its best rate.

The rate of a method that has several is chosen on examples held out of the training set, never on the
test set: the highest mean final score over seeds, or the fewest steps to the target (`choose="steps"`).
A run that diverged counts as never reaching anything.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .compare_plan import Cell, Plan
from .methods import Method
from .recording import steps_to
from .records import CURVE, RunFolder

Finished = dict[Cell, tuple[RunFolder, dict[str, Any]]]  # each run's folder, and what its DONE holds


@dataclass
class Row:
    """One method of the final table, at its chosen rate.

    Attributes:
        scores: final test score of each seed that did not diverge.
        steps_to_target: of each seed that reached it: the first evaluation on the test sample at or above it.
        diverged: (seed, step) of those that did.
        tried: every rate with its mean validation (or, of a single rate, test) score.
    """

    label: str
    method: str
    lr: float
    seeds: int
    scores: list[float]
    steps_to_target: list[int]
    diverged: list[tuple[int, int]]
    step_ms: float | None
    optimizer_ms: float | None
    unevenness: float | None
    tried: list[dict[str, Any]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def mean_steps(self) -> float | None:
        return statistics.fmean(self.steps_to_target) if self.steps_to_target else None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "score_mean": self.mean, "score_sd": self.sd, "steps_to_target_mean": self.mean_steps}


def summarize(plan: Plan, finished: Finished) -> list[Row]:
    """One row a method, at its best rate."""
    rows = []
    for method in plan.methods:
        cells = [cell for cell in plan.cells if cell.method is method]
        rates = list(dict.fromkeys(cell.lr for cell in cells))
        tried = [merit(plan, finished, [c for c in cells if c.lr == lr], lr) for lr in rates]
        best = max(tried, key=lambda entry: entry["merit"])
        chosen = [cell for cell in cells if cell.lr == best["lr"]]
        rows.append(make_row(plan, finished, method, chosen, tried))
    taken: dict[str, int] = {}
    for row in rows:
        taken[row.label] = taken.get(row.label, 0) + 1
    for row in rows:
        if taken[row.label] > 1:
            row.label += f" lr {row.lr:g}"
    return rows


def merit(plan: Plan, finished: Finished, cells: Sequence[Cell], lr: float) -> dict[str, Any]:
    """How good a rate is, by the request's criterion; higher is better."""
    key = "validation_score" if plan.validation else "test_score"
    scores, steps = [], []
    for cell in cells:
        run_folder, result = finished[cell]
        well = result["status"] == "done"
        reached = steps_to(run_folder.read(CURVE), key, plan.target) if well else None
        scores.append(result[key] if well else -math.inf)
        steps.append(2 * plan.settings.steps if reached is None else reached)
    score, mean_steps = statistics.fmean(scores), statistics.fmean(steps)
    value: Any = (-mean_steps, score) if plan.request.choose == "steps" else (score, -mean_steps)
    return {"lr": lr, key: score, "merit": value, "diverged": sum(finished[c][1]["status"] != "done" for c in cells)}


def median_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def make_row(plan: Plan, finished: Finished, method: Method, cells: Sequence[Cell], tried: list[dict[str, Any]]) -> Row:
    results = [finished[cell][1] for cell in cells]
    well = [cell for cell in cells if finished[cell][1]["status"] == "done"]
    reached = [steps_to(finished[cell][0].read(CURVE), "test_score", plan.target) for cell in well]
    return Row(
        label=method.title,
        method=method.spec,
        lr=cells[0].lr,
        seeds=len(cells),
        scores=[finished[cell][1]["test_score"] for cell in well],
        steps_to_target=[step for step in reached if step is not None],
        diverged=[(c.seed, finished[c][1]["diverged_at"]) for c in cells if c not in well],
        step_ms=median_of([result["step_ms"] for result in results]),
        optimizer_ms=median_of([result["optimizer_ms"] for result in results]),
        unevenness=median_of([result["unevenness"] for result in results]),
        tried=[{k: v for k, v in entry.items() if k != "merit"} for entry in tried],
        folders=[str(finished[cell][0].path.name) for cell in cells],
    )
