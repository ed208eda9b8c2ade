"""Gradients that vanish or explode over depth."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, figure, times
from layerpace.monitors.findings.view import MATRIX, View, median


def depth(view: View) -> list[Finding]:
    """A trend of the gradient's norm from the first matrices to the last."""
    t = view.thresholds
    logs = median(view.logs("grad_norm"), 0) if view.steps else torch.empty(0, device="cpu")
    flags = view.enough & view.of_kind(MATRIX)
    flags &= ~logs.isnan() if len(logs) else flags
    values = logs[flags]
    if len(values) < t.depth_layers:
        return []
    few = max(1, len(values) // 4)
    rise = float(median(values[-few:], 0) - median(values[:few], 0))
    order = rank_correlation(values)
    if abs(rise) < t.depth or abs(order) < t.depth_order:
        return []
    names = view.names(flags)
    vanishes = rise > 0
    return [
        Finding(
            kind="vanishing_gradient" if vanishes else "exploding_gradient",
            severity="warning",
            layers=names[:few] if vanishes else names,
            steps=view.span,
            message=f"Gradients {'vanish' if vanishes else 'explode'} on their way from `{names[-1]}` back to "
            f"`{names[0]}`: they become {times(rise)} {'smaller' if vanishes else 'larger'}.",
            evidence=f"gradient norm {figure(10 ** float(values[-1]))} in `{names[-1]}`, "
            f"{figure(10 ** float(values[0]))} "
            f"in `{names[0]}`; rank correlation with depth {order:+.2f} over {len(values)} matrices",
            suggestion="use ReLU or GELU in place of sigmoid or tanh, residual connections, normalisation, or an "
            "initial "
            "scale that keeps the gradient's size (Glorot, He); "
            + (
                f"{'the' if bool(view.ruled.any()) else 'a'} layer-wise rule evens out the speeds meanwhile."
                if vanishes
                else "the clip of the gradients limits the step meanwhile."
                if view.uses.clips
                else "clip gradients (max_grad_norm) meanwhile."
            ),
        )
    ]


def rank_correlation(values: Tensor) -> float:
    """Spearman's rank correlation of [n] values with their order."""
    ranks = values.argsort().argsort().double()
    order = torch.arange(len(values), dtype=torch.float64, device="cpu")
    return float(torch.corrcoef(torch.stack([ranks, order]))[0, 1])
