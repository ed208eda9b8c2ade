"""Updates that half precision rounds away."""

from __future__ import annotations

import torch

from layerpace.monitors.findings.finding import Finding, figure, named, verb
from layerpace.monitors.findings.view import MATRIX, View, median, pick


def rounding(view: View) -> list[Finding]:
    """Half-precision weights without a master copy, whose updates lie below what they resolve."""
    if not view.uses.half or view.uses.master:
        return []
    dtype: torch.dtype = getattr(torch, view.uses.dtype)
    unit = torch.finfo(dtype).eps / 2
    updates = view.settled(view.finite("relative_update_l2"))
    flags = view.enough & view.of_kind(MATRIX) & (updates < unit)
    names = view.names(flags)
    if not names:
        return []
    middle = float(median(torch.tensor(pick(names, updates, view), device="cpu"), 0))
    return [
        Finding(
            kind="lost_to_rounding",
            severity="warning",
            layers=names,
            steps=view.span,
            message=f"The updates of {named(names, view.layers)} are smaller than {dtype} weights resolve: most "
            "entries "
            f"of {verb(names, 'it', 'them')} stay where they are.",
            evidence=f"relative update {figure(middle)}, resolution {figure(unit)}",
            suggestion="keep master weights in float32 (layerpace's optimizers do by default, or train under "
            "autocast), "
            "or round stochastically.",
        )
    ]
