"""Rules: the sums over a layer -> how far it moves. One file per rule; `base` says what a rule must provide."""

from __future__ import annotations

from layerpace.engine.common.checks import by_name
from layerpace.rules.base import Coefficients, Layers, Rule, RuleState
from layerpace.rules.clips import (
    Bounds,
    Clip,
    ClipRule,
    FallingBound,
    LARCClip,
    RunningBounds,
    TighteningBounds,
    clip_rule,
)
from layerpace.rules.identity import Identity
from layerpace.rules.limits import LimitedNorm
from layerpace.rules.percent_delta import PercentDelta
from layerpace.rules.relative_l1 import RelativeL1
from layerpace.rules.rotation import Rotation
from layerpace.rules.trust_ratio import TrustRatio

__all__ = [
    "ALL",
    "BY_NAME",
    "Bounds",
    "Clip",
    "ClipRule",
    "Coefficients",
    "FallingBound",
    "Identity",
    "LARCClip",
    "Layers",
    "LimitedNorm",
    "PercentDelta",
    "RelativeL1",
    "Rotation",
    "Rule",
    "RuleState",
    "RunningBounds",
    "TighteningBounds",
    "TrustRatio",
    "clip_rule",
    "get",
]

ALL: tuple[type[Rule], ...] = (Identity, TrustRatio, PercentDelta, RelativeL1, Rotation, LimitedNorm)
BY_NAME: dict[str, type[Rule]] = {name: cls for cls in ALL for name in cls.names}


def get(rule: str | Rule) -> Rule:
    """The rule of that name with its defaults, or the rule itself."""
    return by_name("rule", rule, Rule, BY_NAME)
