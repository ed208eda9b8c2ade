"""Rules: the sums over a layer -> how far it moves.

A rule turns each row of the table into two numbers, c and b; the layer's displacement is d = c*w + b*u and then
w <- w - d. A rule is a pure function of sums: it never sees a weight, so it is the same on one device and on a
sharded model. It returns c, not 1 - c: a decay of lr*ratio*lambda near 1e-8 is gone from 1 - c in float32.

Every rule works on all layers at once: its inputs and results are float64 vectors [L].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from layerpace.checks import by_name, check_choice, check_range
from layerpace.columns import Constants, Table


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


@dataclass(frozen=True)
class Coefficients:
    """d = c*w + b*u for L layers, float64 [L]; ``c`` None stands for zeros.

    ``ratio`` is the factor that the rule puts on lr.
    """

    c: Tensor | None
    b: Tensor
    ratio: Tensor


RuleState: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """c, b <- R(row, lr, ...).

    Subclasses say which ``columns`` they read, whether they fold decoupled weight decay into (c, b), and whether
    tensors with at most one dimension are left out of them by default. A rule with memory returns it, a number
    for each layer, from ``init``; it is saved with the optimizer's state under the names of ``state_names``.
    """

    names: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False
    excludes_vectors: ClassVar[bool] = False
    state_names: ClassVar[tuple[str, ...]] = ()

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
            c and b of d = c*w + b*u, float64 [L].
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
class Bounds:
    """Clip the trust ratio into [lower, upper]; the LAMBC paper has (0, 1)."""

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        check_range("trust_clip's lower bound", self.lower, 0)
        check_range("trust_clip's upper bound", self.upper, self.lower, infinite=True)

    def __call__(self, ratio: Tensor, layers: Layers) -> Tensor:
        return ratio.clamp(self.lower, self.upper)


@dataclass(frozen=True)
class LARCClip:
    """min(ratio/lr, 1): a layer never moves faster than the direction at rate lr would move it (LARC)."""

    def __call__(self, ratio: Tensor, layers: Layers) -> Tensor:
        return torch.where(ratio < layers.lr, ratio / layers.lr, 1.0)


ClipRule: TypeAlias = Bounds | LARCClip
Clip: TypeAlias = "None | float | Sequence[float] | ClipRule"


def clip_rule(clip: Clip) -> ClipRule | None:
    """The clip rule of a ``trust_clip`` argument: None, an upper bound, a (lower, upper) pair, or a rule.

    Raises:
        TypeError: none of these.
        ValueError: negative bounds, or lower > upper.
    """
    if clip is None or isinstance(clip, (Bounds, LARCClip)):
        return clip
    if isinstance(clip, Sequence) and not isinstance(clip, str) and len(clip) == 2:
        return Bounds(float(clip[0]), float(clip[1]))
    if isinstance(clip, (int, float)) and not isinstance(clip, bool):
        return Bounds(0.0, float(clip))
    raise TypeError(f"trust_clip must be None, an upper bound, a (lower, upper) pair or a clip rule, got {clip!r}")


@dataclass(frozen=True)
class TrustRatio(Rule):
    """Every layer moves by a share of its norm: LARS, LAMB and LAMBC::

        r = clip(coefficient * phi(||w||) / (size + eps))
        d = lr * r * (u + lambda*w)

    lr stands outside of the ratio, the decay inside: with norm="total" and no clip a layer moves by exactly
    lr*coefficient*||w||. Where size + eps is zero the ratio is 1.

    Args:
        coefficient: > 0; LARS's trust coefficient.
        clip: see `clip_rule`.
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
        check_range("trust_coefficient", self.coefficient, 0, open_low=True)
        check_range("eps", self.eps, 0)
        check_choice("norm", self.norm, ("total", "sum", "direction"))
        clip_rule(self.clip)

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
        clip = clip_rule(self.clip)
        if clip is not None:
            ratio = clip(ratio, layers)
        if self.zero_ratio is not None:
            step_is_zero = size == 0 if self.norm == "total" else row["uu"] == 0
            ratio = torch.where((row["ww"] == 0) | step_is_zero, self.zero_ratio, ratio)
        if not self.always_adapt:
            ratio = torch.where(layers.undecayed, 1.0, ratio)
        c = layers.lr * ratio * decay if layers.decays else None
        return Coefficients(c=c, b=layers.lr * ratio, ratio=ratio)


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
        check_range("eps", self.eps, 0)

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
class Rotation(Rule):
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
    excludes_vectors: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = ("initial_norm",)

    PARALLEL: ClassVar[float] = 1e-12

    def columns(self) -> tuple[str, ...]:
        return ("ww", "uu", "wu")

    def init(self, row: Table, layers: Layers) -> RuleState:
        return {"initial_norm": layers.phi(row["ww"])}

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


ALL: tuple[type[Rule], ...] = (Identity, TrustRatio, PercentDelta, RelativeL1, Rotation)
BY_NAME: dict[str, type[Rule]] = {name: cls for cls in ALL for name in cls.names}


def get(rule: str | Rule) -> Rule:
    """The rule of that name with its defaults, or the rule itself; see `layerpace.checks.by_name`."""
    return by_name("rule", rule, Rule, BY_NAME)
