"""Rules: the sums over a layer -> how far it moves. One file per rule; `base` says what a rule must provide."""

from __future__ import annotations

from typing import TypeVar

from layerpace.engine.common.registry import Registry
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
    "register",
]

Kind = TypeVar("Kind", bound=Rule)

ALL: tuple[type[Rule], ...] = (Identity, TrustRatio, PercentDelta, RelativeL1, Rotation, LimitedNorm)
BY_NAME = Registry("rule", Rule)
for _kind in ALL:
    BY_NAME.register(_kind)


def register(cls: type[Kind]) -> type[Kind]:
    """Make a rule known by its ``names``, so that ``rule="..."`` and the command line take it.

    A decorator for a frozen dataclass; see `layerpace.rules.base` for what it must provide. It works under any
    direction, sharding and monitor, and reads the sums that its ``columns`` name. A class that is defined again takes
    the place of the former one.

    Raises:
        TypeError: no dataclass that derives from `Rule`.
        ValueError: no names, or one that another class has.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, layerpace as lp
        >>> @lp.rules.register
        ... @dataclass(frozen=True)
        ... class UnitStep(lp.rules.Rule):
        ...     "Every layer moves by lr in L2 norm."
        ...     names = ("unit_step",)
        ...
        ...     def columns(self):
        ...         return ("uu",)
        ...
        ...     def __call__(self, row, layers, state):
        ...         ratio = torch.where(row["uu"] == 0, 0.0, row["uu"].rsqrt())
        ...         return lp.rules.Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)
        >>> w = torch.zeros(2, requires_grad=True)
        >>> optimizer = lp.Layerwise([w], direction="sgd", rule="unit_step", lr=0.5)
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> [round(x, 6) for x in w.tolist()]
        [-0.3, -0.4]
    """
    return BY_NAME.register(cls)


def get(rule: str | Rule) -> Rule:
    """The rule of that name with its defaults, or the rule itself."""
    return BY_NAME.part(rule)
