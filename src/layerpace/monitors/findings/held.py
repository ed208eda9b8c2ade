"""Layers that started at zero and are held at the smallest norm that a rule knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from layerpace.monitors.findings.finding import Finding, figure, subject, verb
from layerpace.monitors.findings.view import View, pick
from layerpace.rules import BY_NAME

_KEEPERS = {kind.__name__ for kind in BY_NAME.values() if kind.keeps_norm}


def held(view: View) -> list[Finding]:
    """Layers that move, and stay at an RMS of min_rms under a rule that keeps norms."""
    floors = sorted({floor for one in view.uses.optimizers if (floor := _floor(one)) is not None})
    if not floors:
        return []
    entries = torch.tensor([max(1, layer.entries) for layer in view.layers], dtype=torch.float64, device="cpu")
    rms = view.finite("weight_norm") / entries.sqrt()
    there = torch.stack([(rms / floor - 1).abs() < view.thresholds.held for floor in floors]).any(0)
    flags = view.enough & view.all_late(there) & (view.late(view.finite("update_norm")) > 0)
    names = view.names(flags)
    if not names:
        return []
    return [
        Finding(
            kind="held_at_min_rms",
            severity="warning",
            layers=names,
            steps=view.since(~there, flags),
            message=f"{subject(names, view.layers)} {verb(names, 'turns', 'turn')} and {verb(names, 'does', 'do')} not "
            f"grow: {verb(names, 'it', 'they')} started at zero, and the rule keeps norms.",
            evidence=f"RMS {figure(pick(names, view.late(rms), view)[0])} (`{names[0]}`), which is min_rms",
            suggestion="leave what starts at zero and must grow (LoRA's B, the last layer of a residual branch) out by "
            "exclude, with a learning rate of its own, or give it another rule: docs/zero-initialised.md.",
        )
    ]


def _floor(optimizer: Mapping[str, Any]) -> float | None:
    """min_rms of an optimizer whose rule keeps norms."""
    rule, floor = optimizer.get("rule"), optimizer.get("min_rms")
    keeps = isinstance(rule, dict) and rule.get("name") in _KEEPERS
    return float(floor) if keeps and isinstance(floor, (int, float)) and floor > 0 else None
