"""A clip of the trust ratio that always binds, or never."""

from __future__ import annotations

import torch

from layerpace.monitors.findings.finding import Finding, figure, named, percent, verb
from layerpace.monitors.findings.view import View, median, pick


def clipping(view: View) -> list[Finding]:
    """How often the trust ratio was clipped, by layer."""
    t = view.thresholds
    if "trust_ratio" not in view or "trust_ratio_unclipped" not in view:
        return []
    clipped, free = view.finite("trust_ratio"), view["trust_ratio_unclipped"]
    known = ~clipped.isnan() & ~free.isnan()
    layers = (known.sum(0) >= t.min_records) & view.enough
    if not bool(layers.any()):
        return []
    if view.uses.larc:  # min(ratio/lr, 1): in other units than the ratio before it
        binds = known & (clipped >= 1 - t.clip_differs)
    else:
        binds = known & ((clipped - free).abs() > t.clip_differs * clipped.abs())
    shares = torch.where(layers, binds.sum(0) / known.sum(0).clamp(min=1), torch.nan)
    total = float(binds[:, layers].sum() / known[:, layers].sum())
    bounds = median(clipped[binds], 0)
    before = torch.where(known & free.isfinite(), free, torch.nan)
    low, high = float(before[~before.isnan()].min()), float(before[~before.isnan()].max())
    evidence = (
        f"clipped in {percent(total)} of {int(known[:, layers].sum())} ratios; before the clip they lie between "
        f"{figure(low)} and {figure(high)}, after it at a median of {figure(float(median(clipped[known], 0)))}"
    )
    if total == 0:
        return [
            Finding(
                kind="clip_never",
                severity="note",
                layers=view.names(layers),
                steps=view.span,
                message="The clip of the trust ratio has never taken hold: the training is the same without it.",
                evidence=evidence,
                suggestion="if it is to limit the largest ratios, put the bound inside the range that they have.",
            )
        ]
    always = layers & (shares >= t.clip_always)
    names = view.names(always)
    if not names:
        return []
    whole = bool((always == layers).all())
    return [
        Finding(
            kind="clip_always",
            severity="warning" if whole else "note",
            layers=names,
            steps=view.span,
            message=(
                "The clip of the trust ratio binds in all layers all the time, so that it is one constant: what is "
                "left "
                f"of the layer-wise rule is the plain direction at {figure(float(bounds))} times the learning rate."
                if whole
                else f"The clip of the trust ratio always binds in {named(names, view.layers)}, whose "
                f"{verb(names, 'speed is', 'speeds are')} no longer set by the rule."
            ),
            evidence=evidence
            if whole
            else f"{evidence}; of these layers {percent(min(pick(names, shares, view)))} or more",
            suggestion="move the bound into the range of the ratios before the clip, or correct the learning rate so "
            "that "
            "they get nearer to it.",
        )
    ]
