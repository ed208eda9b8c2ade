"""Trust ratios: LARS, LAMB and LAMBC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from layerpace.engine.common.checks import check_choice, keep_flag, keep_range
from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Coefficients, Layers, Rule, RuleState
from layerpace.rules.clips import Clip, clip_rule, plain_clip


@dataclass(frozen=True)
class TrustRatio(Rule):
    """Every layer moves by a share of its norm: LARS, LAMB and LAMBC::

        r = clip(coefficient * phi(||w||) / (size + eps))
        d = lr * r * (u + lambda*w)

    lr stands outside of the ratio, the decay inside: with norm="total" and no clip a layer moves by exactly
    lr*coefficient*||w||. Where size + eps is zero the ratio is 1.

    Args:
        coefficient: > 0; LARS's trust coefficient.
        clip: see `clip_rule`; a clip rule with memory makes its memory the rule's.
        eps: >= 0, added to the size.
        norm: the size of the step: "total" ||u + lambda*w|| (LAMB), "sum" ||u|| + lambda*||w|| (LARS),
            "direction" ||u|| (algorithm 1 of the LAMBC paper).
        always_adapt: if not, layers without weight decay have ratio 1 (apex, timm).
        zero_ratio: the ratio where ||w|| or the norm of the step is zero, whatever the clip, as other libraries
            have it (they use 1); None: as computed.

    Reference: You et al. (2017), (2019); *Improving layer-wise adaptive rate methods using trust ratio clipping*,
    eq. 2, 3 and algorithm 1.
    """

    coefficient: float = 1.0
    clip: Clip = None
    eps: float = 0.0
    norm: Literal["total", "sum", "direction"] = "total"
    always_adapt: bool = True
    zero_ratio: float | None = None
    names: ClassVar[tuple[str, ...]] = ("trust_ratio",)
    decoupled: ClassVar[bool] = True
    excludes_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        keep_range(self, "coefficient", 0, open_low=True, name="trust_coefficient")
        keep_range(self, "eps", 0)
        keep_flag(self, "always_adapt")
        if self.zero_ratio is not None:
            keep_range(self, "zero_ratio", 0)
        check_choice("norm", self.norm, ("total", "sum", "direction"))
        clip = clip_rule(self.clip)
        # What a configuration file says is read once.
        object.__setattr__(self, "clip", clip if isinstance(self.clip, Mapping) else plain_clip(self.clip))

    @property
    def state_names(self) -> tuple[str, ...]:
        clip = clip_rule(self.clip)
        return () if clip is None else clip.state_names

    @property
    def nonnegative(self) -> tuple[str, ...]:
        clip = clip_rule(self.clip)
        return () if clip is None else clip.nonnegative

    def init(self, row: Table, layers: Layers) -> RuleState:
        return {name: torch.zeros_like(layers.n) for name in self.state_names}

    def columns(self) -> tuple[str, ...]:
        return ("ww", "uu", "wu") if self.norm == "total" else ("ww", "uu")

    def _size(self, row: Table, decay: Tensor) -> Tensor:
        if self.norm == "total":
            return (row["uu"] + 2 * decay * row["wu"] + decay**2 * row["ww"]).clamp(min=0).sqrt()
        if self.norm == "sum":
            return row["uu"].sqrt() + decay * row["ww"].sqrt()
        return row["uu"].sqrt()

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        decay = layers.weight_decay
        size = self._size(row, decay)
        ratio = self.coefficient * layers.phi(row["ww"]) / (size + self.eps)
        ratio = torch.where(size + self.eps == 0, 1.0, ratio)
        clip, memory = clip_rule(self.clip), state
        if clip is not None:
            ratio, memory = clip(ratio, layers, state)
        if self.zero_ratio is not None:
            step_is_zero = size == 0 if self.norm == "total" else row["uu"] == 0
            ratio = torch.where((row["ww"] == 0) | step_is_zero, self.zero_ratio, ratio)
        if not self.always_adapt:
            ratio = torch.where(layers.undecayed, 1.0, ratio)
        c = layers.lr * ratio * decay if layers.decays else None
        return Coefficients(c=c, b=layers.lr * ratio, ratio=ratio, memory=memory)
