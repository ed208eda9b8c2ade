"""Layers that go on moving at a learning rate of 0, carried by a velocity that holds the rates before."""

from __future__ import annotations

import torch

from layerpace.monitors.findings.finding import Finding, figure, subject, verb
from layerpace.monitors.findings.view import View, median, pick
from layerpace.monitors.quantities import RATE


def coasting(view: View) -> list[Finding]:
    """Layers that move in two records or more after each other at a rate of 0, by a share of their usual step.

    A schedule that passes through 0 (the end of a cosine, a cycle) is there for one step, with little velocity left; a
    warm-up that starts from 0 has none yet.
    """
    t, updates, rates = view.thresholds, view.finite("update_norm"), view[RATE]
    moves = (rates == 0) & (updates > 0)
    usual = median(torch.where(rates > 0, updates, torch.nan), 0)
    share = torch.where(moves, updates, 0.0).amax(0) / usual
    flags = view.enough & (share >= t.coasting)
    for place in flags.nonzero()[:, 0].tolist():
        mine = moves[view.measured[:, place], place]
        flags[place] = bool((mine[1:] & mine[:-1]).any())
    names = view.names(flags)
    if not names:
        return []
    rows = (moves & flags).any(1).nonzero()[:, 0].tolist()
    furthest = max(pick(names, share, view))
    return [
        Finding(
            kind="moves_at_rate_zero",
            severity="warning",
            layers=names,
            steps=(view.steps[rows[0]], view.steps[rows[-1]]),
            message=f"{subject(names, view.layers)} {verb(names, 'goes', 'go')} on moving at a learning rate of 0: "
            "the velocity holds steps of the rates before.",
            evidence=f"update norm up to {figure(furthest)} of the usual one while the learning rate is 0",
            suggestion="stop when the schedule ends, let it end at a small rate instead of 0, or give LARS "
            "lr_in_velocity=False, whose velocity has no rate in it; layers that are to stay should get no gradient.",
        )
    ]
