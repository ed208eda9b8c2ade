"""Layers that do not train: frozen, without gradient, dead, or held still."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, figure, subject, times, verb
from layerpace.monitors.findings.gradients import no_gradient
from layerpace.monitors.findings.view import MATRIX, View, median, pick
from layerpace.monitors.quantities import RATE


def stopped(view: View) -> list[Finding]:
    """All of them; a layer is in one finding at most."""
    found = untrained(view)
    for rule in (no_gradient, no_update, dead):
        told = {name for finding in found for name in finding.layers}
        free = torch.tensor([layer.name not in told for layer in view.layers], dtype=torch.bool, device="cpu")
        found += rule(view, free)
    return found


def untrained(view: View) -> list[Finding]:
    """Layers that no optimizer has or that require no gradient."""
    idle = torch.tensor([not layer.trained for layer in view.layers], dtype=torch.bool, device="cpu")
    idle &= torch.tensor([layer.entries > 0 for layer in view.layers], dtype=torch.bool, device="cpu")
    names = view.names(idle)
    if not view.main or not names or not bool((~idle).any()):
        return []
    # Who freezes layers on purpose takes those near the input, or most of them.
    first_trained = int((~idle).nonzero()[0])
    usual = 2 * len(names) >= len(view.layers) or not bool(idle[first_trained:].any())
    return [
        Finding(
            kind="untrained",
            severity="note" if usual else "warning",
            layers=names,
            steps=None,
            message=f"{subject(names, view.layers)} {verb(names, 'is', 'are')} not trained: no optimizer has "
            f"{verb(names, 'it', 'them')}, or {verb(names, 'it requires', 'they require')} no gradient.",
            evidence=f"{len(names)} of {len(view.layers)} layers, "
            + ("those nearest to the input" if not bool(idle[first_trained:].any()) else "in between trained ones"),
            suggestion="if this is not meant, pass all of model.parameters() to the optimizer (also what was added "
            "after it was made), and look for requires_grad=False.",
        )
    ]


def no_update(view: View, free: Tensor) -> list[Finding]:
    """Layers that have a gradient and stay where they are, while the others move."""
    updates = view["update_norm"]
    moving = (updates > 0).any(1, keepdim=True)
    grads = view["grad_norm"]
    still = torch.where(moving, updates == 0, True)
    stays = free & view.enough & view.all_late(still) & (view.late(grads) > 0)
    shown = torch.where(moving, updates, torch.nan)
    stays &= (~shown.isnan()).sum(0) >= view.thresholds.min_records
    stays &= view.late(shown) == 0
    if not bool(stays.any()) or bool(stays[view.enough & free].all()):
        return []
    zero_rate = view.late(view[RATE]) == 0
    # The bias before a normalisation has a gradient that is nothing but rounding, and stays where it is.
    lost, matrices = stays & ~zero_rate, view.of_kind(MATRIX)
    parts = ((stays & zero_rate, True), (lost & matrices, False), (lost & ~matrices, False))
    return [_still(view, view.names(flags), view.since(~still, flags), rate) for flags, rate in parts if flags.any()]


def _still(view: View, names: tuple[str, ...], steps: tuple[int, int], zero_rate: bool) -> Finding:
    matrices = set(view.names(view.of_kind(MATRIX)))
    rates, grads = (max(pick(names, view.late(view[name]), view)) for name in (RATE, "grad_norm"))
    why = (
        f"{verb(names, 'its learning rate is', 'their learning rates are')} 0"
        if zero_rate
        else f"{verb(names, 'its update is', 'their updates are')} lost on the way to the weights"
    )
    how = "keep master weights in float32, or raise the learning rate"
    if view.uses.master or not view.uses.half:
        how = "raise the learning rate"
    return Finding(
        kind="zero_rate" if zero_rate else "no_update",
        severity="warning" if zero_rate or set(names) & matrices else "note",
        layers=names,
        steps=steps,
        message=f"{subject(names, view.layers)} {verb(names, 'has', 'have')} a gradient but "
        f"{verb(names, 'does', 'do')} not move: {why}.",
        evidence=f"update norm 0, gradient norm {figure(grads)}, learning rate "
        f"{figure(rates) if rates == rates else 'not recorded'}",
        suggestion="give the param group a learning rate above 0."
        if zero_rate
        else "a bias before a normalisation has no influence: bias=False saves it. Otherwise the update is far below "
        f"the weights' precision ({how}), or a mask or clip undoes it.",
    )


def dead(view: View, free: Tensor) -> list[Finding]:
    """Matrices whose gradient has fallen far more than that of the others."""
    t, logs = view.thresholds, view.logs("grad_norm")
    fell = view.late(logs) - view.early(logs)
    matrices = view.of_kind(MATRIX) & view.enough
    if int(matrices.sum()) < t.min_layers:
        return []
    distance = fell - median(fell[matrices], 0)
    flags = matrices & free & (distance < -t.died)
    names = view.names(flags)
    if not names:
        return []
    deepest = min(pick(names, distance, view))
    return [
        Finding(
            kind="dead",
            severity="warning",
            layers=names,
            steps=view.span,
            message=f"{subject(names, view.layers)} {verb(names, 'has', 'have')} all but lost "
            f"{verb(names, 'its gradient', 'their gradients')}, which fell by {times(deepest)} more than those of the "
            "other layers.",
            evidence=f"gradient norm {figure(10 ** pick(names, view.early(logs), view)[0])} at first, "
            f"{figure(10 ** pick(names, view.late(logs), view)[0])} at the end (`{names[0]}`)",
            suggestion="saturated or dying units: check activations there, lower the learning rate, add normalisation.",
        )
    ]
