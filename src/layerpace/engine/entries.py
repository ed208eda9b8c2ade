"""What an optimizer hands to a step: its settings, the options of its groups, and the parameters with gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.backends import Velocity
from layerpace.engine.sharding.shards import Shard
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Rule


@dataclass(frozen=True)
class Settings:
    """What holds for every parameter of an optimizer."""

    min_rms: float
    low_precision: str
    state_dtype: str
    nonfinite: str
    max_grad_norm: float | None
    backend: str
    capturable: bool = False


@dataclass(frozen=True)
class Scaling:
    """What GradScaler hands to a step: gradients are ``grad_scale`` times too large; ``found_inf`` > 0: skip it."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


@dataclass(frozen=True)
class GroupOptions:
    """What holds for the parameters of one group in this step: its method, a direction and a rule, and its numbers.

    ``lr`` has the layer multiplier in it; a tensor there lives on a device that must not be waited for.
    ``weight_decay`` is the decoupled one and ``l2`` the coupled one, neither of them for excluded parameters;
    ``undecayed`` says that the group has neither.
    """

    lr: float | Tensor
    weight_decay: float
    l2: float
    maximize: bool
    direction: Direction
    rule: Rule
    velocity: Velocity | None
    undecayed: bool


@dataclass(slots=True)
class Entry:
    """One parameter that takes part in a step.

    ``param`` and ``grad`` are real tensors; ``group`` is the place of its options. ``owner`` is the parameter whose
    gradient later steps read; None: there are none, and ``grad`` is scratch memory of this one.

    Of a DTensor they are what this process holds, ``state`` and ``layers`` too: ``held`` says which part that is, and
    ``saved`` is the optimizer's state of all of it.
    """

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    layers: ParameterLayers
    group: int
    owner: Tensor | None
    held: Shard | None = None
    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> ParameterLayers:
        """How the parameter is cut into layers, those included that other processes hold."""
        return self.layers if self.held is None else self.held.whole

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each of those layers; a complex number has two."""
        if self.held is None:
            return self.whole.entries(self.param.shape)
        return self.whole.entries((*self.held.param.shape, *self.param.shape[self.held.param.ndim :]))
