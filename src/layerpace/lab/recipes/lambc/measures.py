"""What the LAMBC recipes read from runs: accuracies, curves, and trust ratios by kind of tensor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..records import Record
from .runs import BOUNDS, Setting

EARLY, LATE = 0.25, 0.75  # of the steps
SETTLED = 0.1  # of the steps, from where on the largest ratio counts: LAMB's first steps are of their own kind
KINDS = ("kernels", "scales", "shifts")  # of convolutions and the last layer; of BatchNorm; biases of both


def outcome(runs: Sequence[Record], setting: Setting, batch: int, classes: int = 10) -> dict[str, Any]:
    """All that is kept of the runs of one clip at one batch size.

    Returns:
        scores: mean test accuracy over the evaluations of the last quarter, for each seed; see `late`.
        end, train: test and training accuracy at the end.
        early: mean test accuracy over the evaluations of the first quarter.
        largest: for each seed, the largest ratio of a tensor before clipping, from a tenth of the steps on.
        curve: epoch, and mean, low and high of the test accuracy over seeds.
        ratios, applied: before and after clipping; {kind: {epoch, low, middle, high}} over tensors and seeds.
        above: {kind: {bound: share of the ratios before clipping, over tensors, records and seeds}}.
    """
    per_epoch = setting.per_epoch(batch)
    before = [ratios(run, clipped=False) for run in runs]
    after = [ratios(run, clipped=True) for run in runs]
    return {
        "scores": [late(run, setting.steps(batch), 1 / classes) for run in runs],
        "end": [end(run, "test_score", 1 / classes) for run in runs],
        "train": [end(run, "train_score", 1 / classes) for run in runs],
        "diverged": sum(run.diverged for run in runs),
        "early": [early(run, setting.steps(batch)) for run in runs],
        "largest": [largest(found, setting.steps(batch)) for found in before],
        "curve": curve(runs, per_epoch),
        "ratios": {kind: spread(before, kind, per_epoch) for kind in KINDS},
        "applied": {kind: spread(after, kind, per_epoch) for kind in KINDS},
        "above": {kind: shares(before, kind) for kind in KINDS},
    }


def without(outcome: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """An outcome less what a recipe neither draws nor judges."""
    return {name: value for name, value in outcome.items() if name not in names}


def late(run: Record, steps: int, guessing: float) -> float:
    """Mean test accuracy over the evaluations of the last quarter; that of guessing for a run that diverged.

    At a rate that stays constant the accuracy goes up and down by points from one epoch to the next.
    """
    if run.diverged:
        return guessing
    scores = [row["test_score"] for row in run.curve if row["step"] > LATE * steps]
    return round(statistics.fmean(scores), 5)


def end(run: Record, name: str, guessing: float) -> float:
    """A score at the end; that of guessing for a run that diverged."""
    value = run.result.get(name)
    return guessing if run.diverged or value is None else round(float(value), 5)


def early(run: Record, steps: int) -> float:
    rows = [row for row in run.curve if row["step"] > 0]
    scores = [row["test_score"] for row in rows if row["step"] <= EARLY * steps] or [rows[0]["test_score"]]
    return round(statistics.fmean(scores), 5)


def curve(runs: Sequence[Record], per_epoch: int) -> dict[str, list[float]]:
    """Over the seeds that have come so far, for those that diverge end early."""
    scores: dict[int, list[float]] = {}
    for run in runs:
        for row in run.curve:
            scores.setdefault(row["step"], []).append(row["test_score"])
    steps = sorted(scores)
    return {
        "epoch": [round(step / per_epoch, 3) for step in steps],
        "mean": [round(statistics.fmean(scores[step]), 4) for step in steps],
        "low": [round(min(scores[step]), 4) for step in steps],
        "high": [round(max(scores[step]), 4) for step in steps],
    }


Ratios = Mapping[str, Mapping[int, list[float]]]


def ratios(run: Record, clipped: bool) -> Ratios:
    """{kind: {step: the trust ratios of its tensors}}; ratios that are not defined are left out."""
    quantity = "trust_ratio"
    if not clipped and "trust_ratio_unclipped" in run.history:  # runs without a clip have the one alone
        quantity = "trust_ratio_unclipped"
    found: dict[str, dict[int, list[float]]] = {kind: {} for kind in KINDS}
    for layer in run.history.layers:
        own = found[kind_of(layer, run.layers)]
        for step, value in zip(*run.series(quantity, layer), strict=True):
            if math.isfinite(value):
                own.setdefault(step, []).append(value)
    return found


def kind_of(layer: str, kernels: Iterable[str]) -> str:
    if layer in kernels:
        return "kernels"
    return "shifts" if layer.endswith("bias") else "scales"


def largest(found: Ratios, steps: int) -> float:
    values = [max(ratios) for own in found.values() for step, ratios in own.items() if step >= SETTLED * steps]
    return digits(max(values, default=0.0))


def spread(found: Sequence[Ratios], kind: str, per_epoch: int) -> dict[str, list[float]]:
    """Smallest, median and largest ratio of a kind of tensor by epoch, over its tensors and all seeds."""
    values: dict[int, list[float]] = {}
    for one in found:
        for step, own in one[kind].items():
            values.setdefault(step, []).extend(own)
    steps = sorted(values)
    return {
        "epoch": [round(step / per_epoch, 3) for step in steps],
        "low": [digits(min(values[step])) for step in steps],
        "middle": [digits(statistics.median(values[step])) for step in steps],
        "high": [digits(max(values[step])) for step in steps],
    }


def shares(found: Sequence[Ratios], kind: str) -> dict[str, float]:
    values = [value for one in found for own in one[kind].values() for value in own]
    return {bound: round(sum(value > float(bound) for value in values) / max(len(values), 1), 4) for bound in BOUNDS}


def digits(value: float) -> float:
    """Four significant ones."""
    return float(f"{value:.4g}")
