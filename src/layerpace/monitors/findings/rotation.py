"""Layers that stop turning before they are far from their initial weights."""

from __future__ import annotations

from itertools import pairwise

import torch

from layerpace.monitors.findings.finding import Finding, figure, subject, verb
from layerpace.monitors.findings.view import MATRIX, View, median, pick

QUARTERS = 4


def rotation(view: View) -> list[Finding]:
    """The layer rotation curve flattens well below a cosine distance of 1."""
    t, curve = view.thresholds, view.finite("cosine_distance")
    flags = torch.zeros(len(view.layers), dtype=torch.bool, device="cpu")
    ends = torch.full((len(view.layers),), torch.nan, dtype=torch.float64, device="cpu")
    slowed = ends.clone()
    steps = torch.tensor(view.steps, dtype=torch.float64, device="cpu")
    judged = view.enough & view.of_kind(MATRIX)
    for place in judged.nonzero()[:, 0].tolist():
        there = ~curve[:, place].isnan()
        values, at = curve[there, place], steps[there]
        if len(values) < t.stalled_readings or float(at[-1] - at[0]) < 0.9 * t.stalled_steps:
            continue
        marks = [round(k * (len(values) - 1) / QUARTERS) for k in range(QUARTERS + 1)]
        rates = [float((values[b] - values[a]) / (at[b] - at[a])) for a, b in pairwise(marks)]
        ends[place] = values[-1]
        fastest = max(rates[:-1])
        slowed[place] = rates[-1] / fastest if fastest > 0 else torch.nan
        flags[place] = fastest > 0 and abs(rates[-1]) < t.stalled_rate * fastest and float(values[-1]) < t.stalled_below
    names = view.names(flags)
    if not names:
        return []
    known = int((~ends.isnan()).sum())
    distances = pick(names, ends, view)
    return [
        Finding(
            kind="rotation_stalled",
            severity="note",
            layers=names,
            steps=view.span,
            message=f"{subject(names, view.layers)} {verb(names, 'has', 'have')} stopped turning at a cosine distance "
            "of "
            f"{_range(distances)} from the initial weights; training generalises best where nearly all layers reach 1."
            + (_schedule(view) if len(names) * 2 > known else ""),
            evidence=f"{len(names)} of {known} matrices; their rotation rate over the last quarter is "
            f"{figure(float(median(slowed[flags], 0)))} of the fastest quarter before",
            suggestion="a rule of thumb (layer-rotation paper, sections 4.2 and 5): a higher learning rate, held for "
            "longer"
            + (
                "."
                if "Rotation" in view.uses.rules
                else (", " if view.uses.decays else ", weight decay with SGD, ")
                + "or Layca, which sets the rotation rate itself."
            ),
        )
    ]


def _schedule(view: View) -> str:
    """Whether the learning rate has fallen as well, as far as it was recorded."""
    rates = view.logs("learning_rate")
    fell = median(rates, 0) if not len(view.steps) else median(rates[-view.window(len(view.steps)) :], 1)
    top = median(rates, 1)
    top = top[~top.isnan()]
    fell = fell[~fell.isnan()]
    if len(top) and len(fell) and float(top.max() - fell[-1]) > 1:
        return " The learning rate has fallen too, so this is the schedule's end rather than a fault."
    return ""


def _range(values: list[float]) -> str:
    low, high = figure(min(values)), figure(max(values))
    return low if low == high else f"{low} to {high}"
