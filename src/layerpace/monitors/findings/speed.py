"""Layers out of step with the rest, and a training that hardly moves."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, Severity, figure, named, subject, times, verb
from layerpace.monitors.findings.view import BIAS, MATRIX, SCALE, View, gain, median, pick, spread

RULES = "a layer-wise rule (LARS, LAMB, PercentDelta, Layca)"
WORDS = {MATRIX: "matrices", SCALE: "norm scales", BIAS: "biases"}


def speed(view: View) -> list[Finding]:
    """Relative updates that are far from those of the other layers, or next to nothing."""
    low = learning_rate_low(view)
    return low or [*initial_scale(view), *out_of_step(view)]


def learning_rate_low(view: View) -> list[Finding]:
    """Nothing moves: also where a schedule has its maximum."""
    t, logs = view.thresholds, view.logs("relative_update_l1")
    judged = view.enough & view.of_kind(MATRIX)
    if not bool(judged.any()):
        return []
    rows = median(logs[:, judged], 1)
    rows = rows[~rows.isnan()]
    top = float(torch.quantile(rows, 0.9)) if len(rows) else float("nan")
    if not top < torch.tensor(t.update_low, device="cpu").log10():
        return []
    return [
        Finding(
            kind="learning_rate_low",
            severity="warning",
            layers=view.names(judged),
            steps=view.span,
            message="The learning rate looks far too low: the matrices hardly change.",
            evidence=f"median relative update {figure(10**top)} a step where it is highest: "
            f"{figure(1 / 10**top)} steps for as much as the weights",
            suggestion=f"raise the learning rate about {times(-3 - top)}; 0.001 to 0.01 a step is usual early in a "
            "training.",
        )
    ]


def out_of_step(view: View) -> list[Finding]:
    """Layers whose relative update stays far from the median of the layers of their kind."""
    found: list[Finding] = []
    logs = view.logs("relative_update_l1")
    for kind in (MATRIX, SCALE, BIAS):
        flags = view.enough & view.of_kind(kind) & ~(view.late(view["grad_norm"]) == 0)
        if int(flags.sum()) < view.thresholds.min_layers:
            continue
        distance, steady = _distance(view, logs, flags)
        groups = _two_groups(view, kind, flags, logs)
        found += groups or _apart(view, kind, flags, distance, steady)
    return found


def _distance(view: View, logs: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
    """Median distance from the other layers [layers], and the share of records on that side at least as far as a note
    needs [layers]; over the records after the start."""
    t = view.thresholds
    among = torch.where(flags, logs, torch.nan)
    start = len(view.steps) // 4
    rows = (among - median(among, 1)[:, None])[start:]
    distance = median(rows, 0)
    beyond = (rows * distance.sign() >= 0.8 * t.out_of_step_note) & ~rows.isnan()
    seen = (~rows.isnan()).sum(0).clamp(min=1)
    return distance, beyond.sum(0) / seen


def _apart(view: View, kind: str, flags: Tensor, distance: Tensor, steady: Tensor) -> list[Finding]:
    t = view.thresholds
    usual = spread(distance[flags])
    least = max(t.out_of_step_note, t.out_of_step_mads * usual)
    found = []
    for way, sign in (("faster", 1.0), ("slower", -1.0)):
        chosen = flags & (distance * sign >= least) & (steady >= t.persistent)
        names = view.names(chosen)
        if not names:
            continue
        sizes = pick(names, distance, view)
        worst = max(sizes, key=abs)
        severity: Severity = "warning" if abs(worst) >= t.out_of_step and kind == MATRIX else "note"
        updates = view.settled(view.finite("relative_update_l1"))
        found.append(
            Finding(
                kind="out_of_step",
                severity=severity,
                layers=names,
                steps=view.span,
                message=f"{subject(names, view.layers)} {verb(names, 'trains', 'train')} {times(worst)} {way} than the "
                f"other {WORDS[kind]}{'' if len(names) == 1 else ' or nearly so'}.",
                evidence=f"relative update a step {figure(pick(names, updates, view)[sizes.index(worst)])}, median of "
                "the "
                f"{WORDS[kind]} {figure(float(median(updates[flags], 0)))}; {abs(worst):.1f} in log10, usual distance "
                f"{usual:.2f}",
                suggestion=f"layers do best at one speed (layer-rotation paper, section 4.2): {_evened(view, chosen)}.",
            )
        )
    return found


def _evened(view: View, layers: Tensor) -> str:
    """How layers get the speed of the others, but for what is in use already."""
    own = "set its lr_multiplier or its group's lr"
    if not bool(view.ruled.any()):
        return f"check its initial scale, {own}, or use {RULES}"
    if bool(view.ruled[layers].any()):
        return f"check its initial scale, or {own}"
    return f"the layer-wise rule leaves it out (exclude), so that its own learning rate counts: {own}"


def _two_groups(view: View, kind: str, flags: Tensor, logs: Tensor) -> list[Finding]:
    """A wide gap between the speeds of two groups, each of several layers that are nearer to each other than that."""
    t, updates = view.thresholds, view.settled(logs)
    known = flags & ~updates.isnan()
    values, _ = updates[known].sort()
    if len(values) < 4:
        return []
    gaps = values[1:] - values[:-1]
    place = int(gaps.argmax())
    gap, lower = float(gaps[place]), place + 1
    few = min(lower, len(values) - lower)
    within = max(float(values[place] - values[0]), float(values[-1] - values[place + 1]))
    if gap < max(t.split_note, within) or few < max(2, len(values) / 4):
        return []
    middle = float(values[place] + values[place + 1]) / 2
    sides = (logs[len(view.steps) // 2 :, known] - middle) * (updates[known] - middle).sign()
    if bool(((sides > 0).sum(0) < t.persistent * (~sides.isnan()).sum(0)).any()):
        return []
    fast = known & (updates > values[place])
    names = view.names(fast) if int(fast.sum()) < lower else view.names(known & ~fast)
    faster = int(fast.sum()) < lower
    return [
        Finding(
            kind="out_of_step",
            severity="warning" if kind == MATRIX and gap >= t.split else "note",
            layers=names,
            steps=view.span,
            message=f"The {WORDS[kind]} train at two speeds: {named(names, view.layers)} at least {times(gap)} "
            f"{'faster' if faster else 'slower'} than the rest.",
            evidence=f"relative updates a step {figure(10 ** float(values[0]))} to "
            f"{figure(10 ** float(values[place]))}, "
            f"and {figure(10 ** float(values[place + 1]))} to {figure(10 ** float(values[-1]))}",
            suggestion="if this is not meant, give the param groups learning rates that are closer"
            + ("." if bool(view.ruled.any()) else f", or use {RULES}."),
        )
    ]


def initial_scale(view: View) -> list[Finding]:
    """Matrices whose first weights were far smaller or larger than is usual, by themselves and among the others."""
    t = view.thresholds
    if not view.steps or view.steps[0] != 1:
        return []
    gains = torch.full((len(view.layers),), torch.nan, dtype=torch.float64, device="cpu")
    for place, (layer, kind, norm) in enumerate(zip(view.layers, view.kinds, view.initial.tolist(), strict=True)):
        if kind == MATRIX and norm > 0:
            gains[place] = gain(layer, norm)
    if int((~gains.isnan()).sum()) < t.min_layers:
        return []
    distance = gains.log10() - median(gains.log10(), 0)
    found = []
    for flags, word in (
        ((gains < t.gain_low) & (distance < -t.gain_distance), "small"),
        ((gains > t.gain_high) & (distance > t.gain_distance), "large"),
    ):
        names = view.names(flags)
        if not names:
            continue
        furthest = max(pick(names, distance, view), key=abs)
        found.append(
            Finding(
                kind="initial_scale",
                severity="warning",
                layers=names,
                steps=(1, 1),
                message=f"{subject(names, view.layers)} {verb(names, 'starts', 'start')} from weights that are "
                "unusually "
                f"{word}: {times(furthest)} {'smaller' if word == 'small' else 'larger'} for "
                f"{verb(names, 'its', 'their')} inputs than the other matrices'.",
                evidence=f"RMS*sqrt(fan-in) {figure(pick(names, gains, view)[0])} (`{names[0]}`), median of the "
                "matrices "
                f"{figure(float(median(gains, 0)))}; 0.5 to 1.5 is usual",
                suggestion="initialise with torch.nn.init.kaiming_uniform_ or xavier_uniform_, whose scale follows the "
                "number of inputs.",
            )
        )
    return found
