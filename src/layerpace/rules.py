"""Rules: the sums over a layer -> how far it moves.

A rule turns each row of the table into two numbers, c and b; the layer's displacement is d = c*w + b*u and then
w <- w - d. A rule is a pure function of sums: it never sees a weight, so it is the same on one device and on a
sharded model. It returns c, not 1 - c: a decay of lr*ratio*lambda near 1e-8 is gone from 1 - c in float32.

Every rule works on all layers at once: its inputs and results are float64 vectors [L].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from layerpace.checks import by_name, check_choice, keep_flag, keep_range
from layerpace.clips import (
    Bounds,
    Clip,
    ClipRule,
    FallingBound,
    LARCClip,
    RunningBounds,
    TighteningBounds,
    clip_rule,
    plain_clip,
)
from layerpace.columns import Constants, Table
from layerpace.parts import Part

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


@dataclass(frozen=True)
class Layers:
    """What a rule knows of L layers beside their sums; float64 [L] each.

    Attributes:
        n: number of entries.
        lr: learning rate of this step, schedule and layer multiplier included.
        weight_decay: decoupled weight decay lambda, per unit of lr.
        min_rms: the RMS below which a layer counts as not yet grown (one number).
        decays: whether any weight decay is not zero, known without reading the device.
        undecayed: bool [L], layers without weight decay of either kind, coupled or decoupled.
    """

    n: Tensor
    lr: Tensor
    weight_decay: Tensor
    min_rms: float
    decays: bool
    undecayed: Tensor

    def phi(self, ww: Tensor) -> Tensor:
        """max(||w||, min_rms*sqrt(n)): the norm that a step is measured by, so that a zero layer can start."""
        return torch.maximum(ww.sqrt(), self.min_rms * self.n.sqrt())


RuleState: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Coefficients:
    """d = c*w + b*u for L layers, float64 [L]; ``c`` None stands for zeros.

    ``ratio`` is the factor that the rule puts on lr; ``memory`` what the rule remembers from now on, where that has
    changed.
    """

    c: Tensor | None
    b: Tensor
    ratio: Tensor
    memory: RuleState = field(default_factory=dict)


@dataclass(frozen=True)
class Rule(Part):
    """c, b <- R(row, lr, ...).

    Subclasses say which ``columns`` they read, whether they fold decoupled weight decay into (c, b), and whether
    tensors with at most one dimension are left out of them by default. A rule with memory returns it, a number
    for each layer, from ``init``, and what has changed of it with its coefficients; it is saved with the optimizer's
    state under the names of ``state_names``. A layer that is held back, or excluded, keeps the memory that it had.
    """

    names: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False
    excludes_vectors: ClassVar[bool] = False
    keeps_norm: ClassVar[bool] = False  # or all but keeps it: a layer that starts at zero stays small

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of its memory."""
        return ()

    @property
    def nonnegative(self) -> tuple[str, ...]:
        """Those of them that are never below zero, nor nan: a state that says otherwise is not loaded."""
        return ()

    def columns(self) -> tuple[str, ...]:
        """The columns of `layerpace.columns` that the rule reads."""
        return ()

    def constants(self, min_rms: float) -> Constants:
        """The constants of those columns."""
        return Constants(floor=min_rms)

    def init(self, row: Table, layers: Layers) -> RuleState:
        """The memory of layers that take their first step.

        Args:
            row: the sums, float64 [L] each.
            layers: what else is known of the L layers.

        Returns:
            float64 [L] for each of ``state_names``.
        """
        return {}

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        """The coefficients of L layers; a pure function.

        Args:
            row: the sums that ``columns`` asks for, float64 [L] each.
            layers: what else is known of the L layers.
            state: the memory, float64 [L] for each of ``state_names``.

        Returns:
            c and b of d = c*w + b*u, float64 [L], and the memory that has changed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(Rule):
    """The direction as it is, with decoupled weight decay: AdamW where the direction is Adam::

    d = lr * (u + lambda*w)
    """

    names: ClassVar[tuple[str, ...]] = ("identity",)
    decoupled: ClassVar[bool] = True

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        c = layers.lr * layers.weight_decay if layers.decays else None
        return Coefficients(c=c, b=layers.lr, ratio=torch.ones_like(layers.lr))


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


@dataclass(frozen=True)
class PercentDelta(Rule):
    """Every tensor changes by the same share: the mean of |d/w| over its entries is lr::

        b = lr * n / sum |u / (w + eps*sign(w))|,        sign(0) = +1
        d = b * u

    A tensor whose RMS is below min_rms has max(|w|, min_rms) in the place of the denominator.

    Args:
        eps: >= 0, units of the weights.

    Reference: Abu-El-Haija, *Proportionate gradient updates with PercentDelta* (2017), eq. 6, 7 and footnote 2.
    """

    eps: float = 1e-8
    names: ClassVar[tuple[str, ...]] = ("percent_delta",)

    def __post_init__(self) -> None:
        keep_range(self, "eps", 0)

    def columns(self) -> tuple[str, ...]:
        return ("ww", "u_over_w_l1", "u_over_floor_l1")

    def constants(self, min_rms: float) -> Constants:
        return Constants(eps=self.eps, floor=min_rms)

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        small = row["ww"].sqrt() < layers.min_rms * layers.n.sqrt()
        total = torch.where(small, row["u_over_floor_l1"], row["u_over_w_l1"])
        ratio = torch.where(total == 0, 0.0, layers.n / total)
        return Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)


@dataclass(frozen=True)
class RelativeL1(Rule):
    """The L1 norm of every step is lr times the L1 norm of its layer::

        b = lr * max(||w||_1, min_rms*n) / ||u||_1
        d = b * u

    The exact form of the goal that PercentDelta states, ||dw||_1 / ||w||_1 = lr, and better conditioned: a weight
    that crosses zero does not shrink the layer's step.

    Reference: Abu-El-Haija (2017), section 1.
    """

    names: ClassVar[tuple[str, ...]] = ("relative_l1",)

    def columns(self) -> tuple[str, ...]:
        return ("w_l1", "u_l1")

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        size = torch.maximum(row["w_l1"], layers.min_rms * layers.n)
        ratio = torch.where(row["u_l1"] == 0, 0.0, size / row["u_l1"])
        return Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)


@dataclass(frozen=True)
class _NormKeeper(Rule):
    """A rule that remembers the norm before a layer's first step, and reads the inner products of w and u."""

    excludes_vectors: ClassVar[bool] = True
    keeps_norm: ClassVar[bool] = True

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("initial_norm",)

    @property
    def nonnegative(self) -> tuple[str, ...]:
        return ("initial_norm",)

    def columns(self) -> tuple[str, ...]:
        return ("ww", "uu", "wu")

    def init(self, row: Table, layers: Layers) -> RuleState:
        return {"initial_norm": layers.phi(row["ww"])}


@dataclass(frozen=True)
class Rotation(_NormKeeper):
    """Every layer turns by the angle atan(lr) and keeps its norm: Layca::

        s = u - (<u,w> / <w,w>)*w                   1: the part of the step orthogonal to w
        s <- s * phi(||w||) / ||s||                 2: as long as w
        w <- w - lr*s                               3
        w <- w * phi(||w_0||) / ||w||               4: back on the sphere of the first weights

    One pass suffices. With p = <w,u>/<w,w>, ||s||^2 = <u,u> - <w,u>^2/<w,w> and k = lr*phi(||w||)/||s||, steps 1 to
    3 give w - k*s, and s is orthogonal to w, so that its norm is sqrt(<w,w> + k^2*||s||^2). With q the quotient
    of step 4, c = 1 - q*(1 + k*p) and b = q*k.

    Where u is parallel to w to rounding (||s||^2 <= 1e-12*||u||^2), and where lr = 0, the layer does not move.
    lr is the tangent of the angle, in radians for small ones. Decoupled decay along w would be projected out. A
    tensor of zeros is put on the sphere of RMS min_rms by its first step, whatever lr, and stays on it: leave
    tensors that start at zero and must grow (the last layer of a residual branch, LoRA's B) out by ``exclude``.

    Reference: *An experimental study of layer-level training speed* (2019), algorithm 1.
    """

    names: ClassVar[tuple[str, ...]] = ("rotation",)
    PARALLEL: ClassVar[float] = 1e-12

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        ww, uu, wu = row["ww"], row["uu"], row["wu"]
        p = torch.where(ww == 0, 0.0, wu / ww)
        ss = uu - p * wu
        ratio = layers.phi(ww) / ss.sqrt()
        k = layers.lr * ratio
        still = (ss <= self.PARALLEL * uu) | (k == 0)
        q = state["initial_norm"] / (ww + k**2 * ss).sqrt()
        zero = torch.zeros_like(k)
        return Coefficients(
            c=torch.where(still, zero, 1 - q * (1 + k * p)),
            b=torch.where(still, zero, q * k),
            ratio=torch.where(still, zero, ratio),
        )


@dataclass(frozen=True)
class LimitedNorm(_NormKeeper):
    """Every layer moves by lr times its norm, and its norm grows by little: LARS as the layer rotation paper ran it::

        s = u * phi(||w||) / ||u||                                          1: as long as w
        v = w - lr*s                                                        2
        w <- v * min(1, (phi(||w||) + growth*phi(||w_0||)) / ||v||)         3

    It is `Rotation` without projections: a step across w makes it longer, and in the long run too long for floats,
    were it not for step 3. With k = lr*phi(||w||)/||u||, ||v|| is sqrt(<w,w> - 2k*<w,u> + k^2*<u,u>); with q the
    factor of step 3, c = 1 - q and b = q*k.

    Where u or lr is zero the layer does not move. A norm may fall by any amount. Weight decay is coupled.

    Args:
        growth: >= 0, of the norm in a step, in units of the norm before the first step.

    Reference: *An experimental study of layer-level training speed* (2019), appendix A.2, figure 8 and footnote 7.
    """

    growth: float = 1e-4
    names: ClassVar[tuple[str, ...]] = ("limited_norm",)

    def __post_init__(self) -> None:
        keep_range(self, "growth", 0)

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        ww, uu, wu = row["ww"], row["uu"], row["wu"]
        size = layers.phi(ww)
        ratio = torch.where(uu == 0, 0.0, size / uu.sqrt())
        k = layers.lr * ratio
        norm = (ww - 2 * k * wu + k**2 * uu).clamp(min=0).sqrt()
        limit = size + self.growth * state["initial_norm"]
        q = torch.where((k == 0) | (norm <= limit), 1.0, limit / norm)
        return Coefficients(c=1 - q, b=q * k, ratio=ratio)


ALL: tuple[type[Rule], ...] = (Identity, TrustRatio, PercentDelta, RelativeL1, Rotation, LimitedNorm)
BY_NAME: dict[str, type[Rule]] = {name: cls for cls in ALL for name in cls.names}


def get(rule: str | Rule) -> Rule:
    """The rule of that name with its defaults, or the rule itself; see `layerpace.checks.by_name`."""
    return by_name("rule", rule, Rule, BY_NAME)
