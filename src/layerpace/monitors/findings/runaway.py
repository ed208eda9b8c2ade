"""Layers and losses that run away."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, figure, named, subject, times, verb
from layerpace.monitors.findings.view import MATRIX, View, gain, median, pick

QUARTERS = 4
RELATIVE = ("relative_update_l1", "relative_update_l2")


def runaway(view: View) -> list[Finding]:
    """Norms that grow without end, updates that are too large for long, losses that climb."""
    found = [*diverging(view), *growing(view)]
    told = {name for finding in found for name in finding.layers}
    return [*found, *(too_fast(view, told) or replaced(view, told))]


def growing(view: View) -> list[Finding]:
    """Weight norms that have grown by a large factor, or that keep doubling."""
    t, norms = view.thresholds, view.logs("weight_norm")
    total, exponential = _growth(view, norms)
    last = view.late(view.finite("weight_norm"))
    large = torch.tensor(
        [_large(view, place, float(norm)) for place, norm in enumerate(last)], dtype=torch.bool, device="cpu"
    )
    blown = total >= math.log10(t.growth)
    alone = total - _middle_of_kind(view, total) >= math.log10(t.outgrown)
    flags = view.enough & large & (blown | exponential | alone)
    names = view.names(flags)
    if not names:
        return []
    growth = pick(names, total, view)
    worst = names[growth.index(max(growth))]
    return [
        Finding(
            kind="runaway",
            severity="error" if bool((flags & blown).any()) else "warning",
            layers=names,
            steps=view.span,
            message=f"The weights of {named(names, view.layers)} run away: their norm has grown {times(max(growth))}"
            f"{' and keeps doubling' if bool((flags & exponential).any()) else ''}.",
            evidence=f"`{worst}`: norm {figure(pick([worst], view.initial, view)[0])} at first, "
            f"{figure(pick([worst], last, view)[0])} at the end",
            suggestion=view.uses.slower
            + ("" if view.uses.clips else ", clip gradients")
            + ("" if view.uses.decays else ", add weight decay")
            + "; a normalisation after the layer makes its norm harmless, but slows its rotation.",
        )
    ]


def _growth(view: View, norms: Tensor) -> tuple[Tensor, Tensor]:
    """log10 of the growth of each layer, and whether each of its last two quarters has doubled it."""
    total = torch.full((len(view.layers),), torch.nan, dtype=torch.float64, device="cpu")
    exponential = torch.zeros(len(view.layers), dtype=torch.bool, device="cpu")
    step = math.log10(view.thresholds.doubling)
    for place, column in enumerate(norms.unbind(1)):
        there = column[~column.isnan()]
        if len(there) < view.thresholds.min_records:
            continue
        total[place] = there[-1] - there[0]
        marks = [there[round(k * (len(there) - 1) / QUARTERS)] for k in range(QUARTERS + 1)]
        rises = [float(b - a) for a, b in pairwise(marks)]
        # What starts from next to nothing grows fast and ever more slowly; what runs away does not slow down.
        exponential[place] = min(rises[-2:]) >= step and rises[-1] >= 0.7 * rises[-2]
    return total, exponential


def _middle_of_kind(view: View, values: Tensor) -> Tensor:
    """The median over the layers of each layer's kind, float64 [layers]."""
    out = torch.full_like(values, torch.nan)
    for kind in set(view.kinds):
        flags = view.of_kind(kind)
        if int((view.enough & flags).sum()) >= view.thresholds.min_layers:
            out[flags] = median(values[view.enough & flags], 0)
    return out


def _large(view: View, place: int, norm: float) -> bool:
    layer, t = view.layers[place], view.thresholds
    if view.kinds[place] == MATRIX:
        return gain(layer, norm) >= t.grown_gain
    return norm / math.sqrt(max(1, layer.entries)) >= t.grown_rms


def too_fast(view: View, told: set[str]) -> list[Finding]:
    """Relative updates that no layer bears for long."""
    t = view.thresholds
    # What gets no gradient any more, perhaps for this very reason, is judged by the records in which it moved.
    moved = {name: torch.where(view[name] > 0, view.finite(name), torch.nan) for name in RELATIVE}
    size = torch.minimum(*(view.settled(values) for values in moved.values()))
    matrices = view.of_kind(MATRIX)
    line = torch.where(matrices, t.update_high, t.vector_update_high)
    updates = moved["relative_update_l1"]
    shares = _settled_mean(view, torch.where(updates.isnan(), torch.nan, (updates > line).double()))
    fast = view.enough & (size > line) & (shares >= t.persistent)
    judged = view.enough & matrices
    if int(judged.sum()) > 1 and float((fast & judged).sum()) >= t.most * float(judged.sum()):
        middle = float(median(size[judged], 0))
        return [
            Finding(
                kind="learning_rate_high",
                severity="warning",
                layers=view.names(fast & judged),
                steps=view.span,
                message=f"The learning rate looks far too high: nearly all matrices change by {figure(100 * middle)}% "
                "in "
                "every step.",
                evidence=f"median relative update {figure(middle)} in the second half of the records; "
                f"more than {t.update_high:g} in {int((fast & judged).sum())} of {int(judged.sum())} matrices",
                suggestion=f"lower the learning rate about {times(math.log10(middle / 0.003))}; 0.001 to 0.01 a step "
                "is "
                "usual early in a training.",
            )
        ]
    names = tuple(name for name in view.names(fast) if name not in told)
    if not names:
        return []
    highest = max(pick(names, size, view))
    return [
        Finding(
            kind="runaway",
            severity="warning",
            layers=names,
            steps=view.span,
            message=f"{subject(names, view.layers)} {verb(names, 'changes', 'change')} by up to "
            f"{figure(100 * highest)}% in "
            "every step, which forgets what was learned before.",
            evidence=f"relative update {figure(highest)} in the second half of the records; median of the matrices "
            f"{figure(float(median(size[judged], 0)))}",
            suggestion="lower its learning rate"
            + (
                "."
                if bool(view.ruled[fast].any())
                else ", or use a rule that ties updates to weights (LARS, LAMB, PercentDelta)."
            ),
        )
    ]


def replaced(view: View, told: set[str]) -> list[Finding]:
    """Steps that change a matrix by more than its own size, after which little of its initial weights is left."""
    t = view.thresholds
    layers = zip(view.layers, view.kinds, view.initial.tolist(), strict=True)
    usual = [kind == MATRIX and gain(layer, norm) >= t.gain_low for layer, kind, norm in layers]
    judged = torch.tensor(usual, dtype=torch.bool, device="cpu") & view.measured.any(0)
    updates = torch.minimum(view.finite("relative_update_l1"), view.finite("relative_update_l2"))
    jumps = (updates > t.jump) & judged
    jumped = jumps.any(0)
    names = tuple(name for name in view.names(jumped) if name not in told)
    if not names:
        return []
    rows = jumps.any(1).nonzero()[:, 0].tolist()
    whole = int(jumped.sum()) > 1 and float(jumped.sum()) >= t.most * float(judged.sum())
    steps = view.steps[rows[0]], view.steps[rows[-1]]
    return [
        Finding(
            kind="learning_rate_high" if whole else "runaway",
            severity="warning",
            layers=names,
            steps=steps,
            message=f"A single step changed {named(names, view.layers)} by more than "
            f"{verb(names, 'its', 'their')} own size: what the initial weights were made for is lost.",
            evidence=f"relative update up to {figure(float(updates[jumps].max()))}, first above {t.jump:g} at step "
            f"{steps[0]}, in {len(rows)} of {len(view.steps)} records",
            suggestion=f"{view.uses.slower}.",
        )
    ]


def _settled_mean(view: View, flags: Tensor) -> Tensor:
    """Mean over the second half of each layer's records."""
    out = torch.zeros(len(view.layers), dtype=torch.float64, device="cpu")
    for place, column in enumerate(flags.unbind(1)):
        there = column[~column.isnan()]
        if len(there):
            out[place] = there[len(there) // 2 :].mean()
    return out


def diverging(view: View) -> list[Finding]:
    """Losses that have climbed far above where they started."""
    found = []
    for name in view.losses:
        steps, values = view.scalar(name)
        finite = [value for value in values if math.isfinite(value)]
        if len(finite) < view.thresholds.min_records or min(finite) < 0:
            continue
        count = view.window(len(finite))
        first, last = sorted(finite[:count])[count // 2], sorted(finite[-count:])[count // 2]
        first = max(first, finite[0])
        if last > view.thresholds.loss_growth * first > 0:
            found.append(
                Finding(
                    kind="diverging",
                    severity="error",
                    layers=(),
                    steps=(steps[0], steps[-1]),
                    message=f"The training diverges: `{name}` is {times(math.log10(last / first))} what it was at the "
                    "start.",
                    evidence=f"`{name}` {figure(first)} at the start, lowest {figure(min(finite))}, now {figure(last)}",
                    suggestion=view.uses.slower + ("." if view.uses.clips else ", and clip gradients."),
                )
            )
    return found
