"""Clip rules: what a trust ratio may be. Fixed bounds, and bounds that follow each layer's steps.

A clip rule turns the ratios of L layers into clipped ones, float64 [L]. One with memory also returns what it will
remember, float64 [L] for each of its ``state_names``; it starts from zeros, is saved in the optimizer's state, and
stays what it was where a layer is held back. What is written there is a layer's own: layers that started later, or
were held back, have bounds of their own steps.

As text, for ``trust_clip`` and the command line: "larc", "bounds(0.1, 2)", "running(deviations=2)", "tightening",
"falling(start=5, steps=500)".
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from layerpace.checks import check_choice, check_range

if TYPE_CHECKING:
    from layerpace.rules import Layers

Memory: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class ClipRule:
    """r <- clip(r); ``name`` is its name as text, ``state_names`` what it remembers of each layer."""

    name: ClassVar[str] = ""
    state_names: ClassVar[tuple[str, ...]] = ()

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        """The clipped ratios and the new memory of L layers; a pure function, of tensor operations alone.

        Args:
            ratio: the trust ratios as computed, float64 [L].
            layers: what else is known of the layers.
            memory: float64 [L] for each of ``state_names``; zeros before the first step.

        Returns:
            The clipped ratios, float64 [L], and the memory after this step.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Bounds(ClipRule):
    """Clip the trust ratio into [lower, upper]; the LAMBC paper has (0, 1)."""

    lower: float = 0.0
    upper: float = 1.0
    name: ClassVar[str] = "bounds"

    def __post_init__(self) -> None:
        check_range("trust_clip's lower bound", self.lower, 0)
        check_range("trust_clip's upper bound", self.upper, self.lower, infinite=True)

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        return ratio.clamp(self.lower, self.upper), {}


@dataclass(frozen=True)
class LARCClip(ClipRule):
    """min(ratio/lr, 1): a layer never moves faster than the direction at rate lr would move it (LARC)."""

    name: ClassVar[str] = "larc"

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        return torch.where(ratio < layers.lr, ratio / layers.lr, 1.0), {}


@dataclass(frozen=True)
class RunningBounds(ClipRule):
    """Bounds n standard deviations from the mean of the layer's own ratios in the steps before::

        upper = m + n*s,    lower = 0, or m - n*s
        m, s: mean and standard deviation of the ratios before clipping, with weights 1, decay, decay^2, ... into the
              past (the bias-corrected averages of r and r^2: s^2 = E[r^2] - m^2)

    The step that is clipped is not in m and s, or an outlier would move its own bound. They need some steps before
    they say anything (after one ratio s is 0): the first ``warmup`` ratios are clipped at ``start``, as LAMBC clips
    all. A ratio of inf or nan is not counted.

    The lower bound is 0 by default: a ratio that is small makes a small step, which breaks nothing, and a lower
    bound would push a layer whose update is as large as its weights.

    Args:
        deviations: n >= 0.
        decay: in [0, 1), a step; 0.99 looks back some hundred steps.
        warmup: >= 1, steps of the layer.
        start: >= 0, the upper bound in these; may be inf.
        two_sided: whether there is a lower bound too.

    Reference: *Improving layer-wise adaptive rate methods using trust ratio clipping*, section 5, with the averages of
    Ede and Beanland, *Adaptive learning rate clipping stabilizes learning* (2020), which clips losses.
    """

    deviations: float = 1.0
    decay: float = 0.99
    warmup: float = 10
    start: float = 1.0
    two_sided: bool = False
    name: ClassVar[str] = "running"
    state_names: ClassVar[tuple[str, ...]] = ("clip_step", "ratio_mean", "ratio_deviation")

    def __post_init__(self) -> None:
        check_range("trust_clip's deviations", self.deviations, 0)
        check_range("trust_clip's decay", self.decay, 0, 1, open_high=True)
        check_range("trust_clip's warmup", self.warmup, 1)
        check_range("trust_clip's start", self.start, 0, infinite=True)

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        before, mean, deviation = (memory[name] for name in self.state_names)
        upper = torch.where(before < self.warmup, self.start, mean + self.deviations * deviation)
        clipped = torch.minimum(ratio, upper)
        if self.two_sided:
            lower = mean - self.deviations * deviation
            clipped = torch.where(before < self.warmup, clipped, torch.maximum(clipped, lower))
        # One new value of weight a in an average: the variance so, not as a difference of two large averages.
        step = before + 1
        a = (1 - self.decay) / (1 - self.decay**step)
        change = ratio - mean
        after = (step, mean + a * change, (1 - a).sqrt() * torch.hypot(deviation, a.sqrt() * change))
        counts = torch.isfinite(ratio)
        return clipped, {
            name: torch.where(counts, new, memory[name]) for name, new in zip(self.state_names, after, strict=True)
        }


@dataclass(frozen=True)
class TighteningBounds(ClipRule):
    """AdaBound's bounds, which close in on one value from both sides::

        lower = final * (1 - 1/(gamma*t + 1)),    upper = final * (1 + 1/(gamma*t)),    t = 1, 2, ... of the layer

    In the end every ratio is ``final``, and the step that of the direction at rate lr*final.

    Args:
        final: > 0.
        gamma: > 0; at t = 1/gamma the bounds are final/2 and 2*final.

    Reference: Luo et al., *Adaptive gradient methods with dynamic bound of learning rate* (2019), section 4, on
    trust ratios: the LAMBC paper, section 3.
    """

    final: float = 1.0
    gamma: float = 1e-3
    name: ClassVar[str] = "tightening"
    state_names: ClassVar[tuple[str, ...]] = ("clip_step",)

    def __post_init__(self) -> None:
        check_range("trust_clip's final", self.final, 0, open_low=True)
        check_range("trust_clip's gamma", self.gamma, 0, open_low=True)

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        t = memory["clip_step"] + 1
        lower = self.final * (1 - 1 / (self.gamma * t + 1))
        upper = self.final * (1 + 1 / (self.gamma * t))
        return torch.minimum(torch.maximum(ratio, lower), upper), {"clip_step": t}


@dataclass(frozen=True)
class FallingBound(ClipRule):
    """An upper bound that is loose while the weights grow, and falls to ``end``::

        p = min((t - 1)/steps, 1),    t = 1, 2, ... of the layer
        upper = start * (end/start)^p           "geometric": the same factor every step
        upper = start + (end - start)*p         "linear"

    From step ``steps`` + 1 on it is `Bounds(0, end)`.

    Args:
        start: >= end.
        end: > 0.
        steps: >= 1.
        course: "geometric" or "linear".

    Reference: the LAMBC paper, section 4.2, leaves the course open.
    """

    start: float = 10.0
    end: float = 1.0
    steps: float = 1000
    course: Literal["geometric", "linear"] = "geometric"
    name: ClassVar[str] = "falling"
    state_names: ClassVar[tuple[str, ...]] = ("clip_step",)

    def __post_init__(self) -> None:
        check_range("trust_clip's end", self.end, 0, open_low=True)
        check_range("trust_clip's start", self.start, self.end)
        check_range("trust_clip's steps", self.steps, 1)
        check_choice("trust_clip's course", self.course, ("geometric", "linear"))

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        before = memory["clip_step"]
        p = before / self.steps
        if self.course == "geometric":
            upper = self.start * (self.end / self.start) ** p
        else:
            upper = self.start + (self.end - self.start) * p
        upper = torch.where(before < self.steps, upper, self.end)
        return torch.minimum(ratio, upper), {"clip_step": before + 1}


Clip: TypeAlias = "None | float | str | Sequence[float] | ClipRule"
CLIPS: dict[str, type[ClipRule]] = {
    cls.name: cls for cls in (Bounds, LARCClip, RunningBounds, TighteningBounds, FallingBound)
}


def clip_rule(clip: Clip) -> ClipRule | None:
    """The clip rule of a ``trust_clip`` argument.

    Args:
        clip: None, an upper bound, a (lower, upper) pair, a rule, or the text of one: a name with arguments in
            brackets, if any.

    Raises:
        TypeError: none of these.
        ValueError: values out of range, such as negative bounds or lower > upper; an unknown name or argument.
    """
    if clip is None or isinstance(clip, ClipRule):
        return clip
    if isinstance(clip, str):
        return _from_text(clip)
    if isinstance(clip, Sequence) and len(clip) == 2:
        return Bounds(float(clip[0]), float(clip[1]))
    if isinstance(clip, (int, float)) and not isinstance(clip, bool):
        return Bounds(0.0, float(clip))
    raise TypeError(
        f"trust_clip must be None, an upper bound, a (lower, upper) pair, a clip rule or its name, got {clip!r}"
    )


@lru_cache(maxsize=64)
def _from_text(text: str) -> ClipRule:
    name, bracket, rest = text.strip().partition("(")
    cls = CLIPS.get(name.strip())
    if cls is None:
        raise ValueError(
            f"trust_clip must be one of {', '.join(map(repr, CLIPS))}, with arguments in brackets if any, got {text!r}"
        )
    values, options = _arguments(text, bracket + rest)
    known = [field.name for field in fields(cls)]
    if len(values) > len(known) or not set(options) <= set(known[len(values) :]):
        has = f"takes {', '.join(known)}, once each" if known else "takes no arguments"
        raise ValueError(f"trust_clip's {name!r} {has}; got {text!r}")
    return cls(*values, **options)


def _arguments(text: str, brackets: str) -> tuple[list[Any], dict[str, Any]]:
    """The values of "(1, key=2)"; a word is a string, except for inf."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return math.inf if node.id == "inf" else node.id
        return ast.literal_eval(node)

    try:
        call = ast.parse(f"f{brackets or '()'}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        options = {key.arg or "**": value(key.value) for key in call.keywords}
        if len(options) < len(call.keywords):
            raise ValueError
        return [value(arg) for arg in call.args], options
    except (SyntaxError, ValueError):
        raise ValueError(f"trust_clip must be a name such as 'running(deviations=2)', got {text!r}") from None
