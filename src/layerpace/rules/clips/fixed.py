"""What a clip rule is, and fixed bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from layerpace.engine.common.checks import keep_range
from layerpace.engine.common.parts import Part

if TYPE_CHECKING:
    from layerpace.rules import Layers

Memory: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class ClipRule(Part):
    """r <- clip(r); ``name`` is its name as text, ``state_names`` what it remembers of each layer.

    ``nonnegative`` are those of them that are never below zero, nor nan: a state that says otherwise is not loaded.
    """

    name: ClassVar[str] = ""
    state_names: ClassVar[tuple[str, ...]] = ()
    nonnegative: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, values: Sequence[Any], options: Mapping[str, Any]) -> ClipRule:
        """The rule of a text's arguments."""
        return cls(*values, **options)

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
    """Clip the trust ratio into [lower, upper]; the LAMBC paper has (0, 1).

    As text, one value is the upper bound, as ``trust_clip=0.5`` is: "bounds(0.5)" is [0, 0.5]. Here in Python the first
    value is always the lower one: say ``Bounds(upper=0.5)``.
    """

    lower: float = 0.0
    upper: float = 1.0
    name: ClassVar[str] = "bounds"

    def __post_init__(self) -> None:
        if self.upper is None:
            raise ValueError("trust_clip's upper bound must be a number, got None: pass math.inf for no bound")
        keep_range(self, "lower", 0, name="trust_clip's lower bound")
        keep_range(self, "upper", self.lower, name="trust_clip's upper bound", infinite=True)

    @classmethod
    def of(cls, values: Sequence[Any], options: Mapping[str, Any]) -> ClipRule:
        """One value without a name is the upper bound."""
        return cls(upper=values[0]) if len(values) == 1 and not options else cls(*values, **options)

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        return ratio.clamp(self.lower, self.upper), {}


@dataclass(frozen=True)
class LARCClip(ClipRule):
    """min(ratio/lr, 1): a layer never moves faster than the direction at rate lr would move it (LARC)."""

    name: ClassVar[str] = "larc"

    def __call__(self, ratio: Tensor, layers: Layers, memory: Memory) -> tuple[Tensor, Memory]:
        return torch.where(ratio < layers.lr, ratio / layers.lr, 1.0), {}
