"""Clip rules: what a trust ratio may be. Fixed bounds, and bounds that follow each layer's steps.

A clip rule turns the ratios of L layers into clipped ones, float64 [L]. One with memory also returns what it will
remember, float64 [L] for each of its ``state_names``; it starts from zeros, is saved in the optimizer's state, and
stays what it was where a layer is held back. What is written there is a layer's own: layers that started later, or
were held back, have bounds of their own steps.

As text, for ``trust_clip`` and the command line: "larc", "bounds(0.1, 2)", "running(deviations=2)", "tightening",
"falling(start=5, steps=500)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import TypeAlias

from torch import Tensor

from layerpace.engine.common.checks import pair, plain, read_number
from layerpace.engine.common.parts import described
from layerpace.rules.clips.fixed import Bounds, ClipRule, LARCClip, Memory
from layerpace.rules.clips.moving import FallingBound, RunningBounds, TighteningBounds
from layerpace.rules.clips.text import arguments

__all__ = [
    "CLIPS",
    "Bounds",
    "Clip",
    "ClipRule",
    "FallingBound",
    "LARCClip",
    "Memory",
    "RunningBounds",
    "TighteningBounds",
    "clip_rule",
    "plain_clip",
]

Clip: TypeAlias = None | float | str | Sequence[float] | ClipRule
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
    clip = described(clip, "trust_clip")
    if clip is None or isinstance(clip, ClipRule):
        return clip
    if isinstance(clip, str):
        return _from_text(clip)
    bounds = pair(clip)
    if bounds is not None:
        return Bounds(*bounds)
    number = plain(clip)
    if isinstance(number, (int, float, Tensor)) and not isinstance(number, bool):
        return Bounds(0.0, number)  # type: ignore[arg-type]
    raise TypeError(
        f"trust_clip must be None, an upper bound, a (lower, upper) pair, a clip rule or its name, got {clip!r}"
    )


def plain_clip(clip: Clip) -> Clip:
    """A ``trust_clip`` argument that `clip_rule` takes, with bounds as Python's own numbers."""
    bounds = pair(clip)
    if bounds is not None:
        lower, upper = (read_number("trust_clip", plain(bound)) for bound in bounds)
        return lower, upper
    plain_number: Clip = read_number("trust_clip", plain(clip))
    return plain_number


@lru_cache(maxsize=64)
def _from_text(text: str) -> ClipRule:
    name, bracket, rest = text.strip().partition("(")
    cls = CLIPS.get(name.strip())
    if cls is None:
        raise ValueError(
            f"trust_clip must be one of {', '.join(map(repr, CLIPS))}, with arguments in brackets if any, got {text!r}"
        )
    values, options = arguments(text, bracket + rest)
    known = [field.name for field in fields(cls)]
    if len(values) > len(known) or not set(options) <= set(known[len(values) :]):
        has = f"takes {', '.join(known)}, once each" if known else "takes no arguments"
        raise ValueError(f"trust_clip's {name!r} {has}; got {text!r}")
    return cls.of(values, options)
