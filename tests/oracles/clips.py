"""Clip rules with memory, from lists of all ratios so far: clip(ratio, state of the layer) -> ratio."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .common import State

Clip = Callable[[Tensor, State], Tensor]


def _past(ratio: Tensor, state: State) -> list[float]:
    """The ratios before this one, which joins them."""
    known: list[float] = state.setdefault("ratios", [])
    past = list(known)
    known.append(float(ratio))
    return past


def running(deviations: float, decay: float, warmup: int, start: float, two_sided: bool) -> Clip:
    def clip(ratio: Tensor, state: State) -> Tensor:
        past = _past(ratio, state)
        if len(past) < warmup:
            return ratio.clamp(max=start)
        weights = [decay ** (len(past) - 1 - k) for k in range(len(past))]
        mean = sum(w * r for w, r in zip(weights, past, strict=True)) / sum(weights)
        square = sum(w * r * r for w, r in zip(weights, past, strict=True)) / sum(weights)
        width = deviations * math.sqrt(max(square - mean**2, 0))
        return ratio.clamp(max(mean - width, 0) if two_sided else 0, mean + width)

    return clip


def tightening(final: float, gamma: float) -> Clip:
    def clip(ratio: Tensor, state: State) -> Tensor:
        t = len(_past(ratio, state)) + 1
        return ratio.clamp(final - final / (gamma * t + 1), final + final / (gamma * t))

    return clip


def falling(start: float, end: float, steps: int, course: str) -> Clip:
    def clip(ratio: Tensor, state: State) -> Tensor:
        done = len(_past(ratio, state))
        upper = start
        for _ in range(min(done, steps)):
            upper = (
                upper * math.exp(math.log(end / start) / steps)
                if course == "geometric"
                else (upper - (start - end) / steps)
            )
        return ratio.clamp(max=upper)

    return clip
