"""Bounds that follow a layer's own ratios, or its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from layerpace.engine.common.checks import check_choice, keep_range, plain
from layerpace.rules.clips.fixed import ClipRule, Memory

if TYPE_CHECKING:
    from layerpace.rules import Layers


def _keep(clip: ClipRule, field: str, low: float, high: float = math.inf, **kind: bool) -> None:
    keep_range(clip, field, low, high, name=f"trust_clip's {field}", **kind)


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
    nonnegative: ClassVar[tuple[str, ...]] = state_names

    def __post_init__(self) -> None:
        _keep(self, "deviations", 0)
        _keep(self, "decay", 0, 1, open_high=True)
        _keep(self, "warmup", 1)
        _keep(self, "start", 0, infinite=True)
        object.__setattr__(self, "two_sided", plain(self.two_sided))
        if not isinstance(self.two_sided, bool):  # the text "false" would count as true
            raise TypeError(f"trust_clip's two_sided must be True or False, got {self.two_sided!r}")

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
    nonnegative: ClassVar[tuple[str, ...]] = state_names

    def __post_init__(self) -> None:
        _keep(self, "final", 0, open_low=True)
        _keep(self, "gamma", 0, open_low=True)

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
    nonnegative: ClassVar[tuple[str, ...]] = state_names

    def __post_init__(self) -> None:
        _keep(self, "end", 0, open_low=True)
        _keep(self, "start", self.end)
        _keep(self, "steps", 1)
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
