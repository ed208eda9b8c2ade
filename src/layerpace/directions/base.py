"""What a direction is: the elementwise step of an optimizer, before any learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from layerpace.engine.common.parts import Part
from layerpace.engine.numerics.tensors import Scalar, Tensors

State = dict[str, Tensors]


@dataclass(frozen=True)
class Direction(Part):
    """u, state <- D(g, w, state).

    A direction is a frozen dataclass; its fields are the options that param groups may override. ``w <- w - lr*u``
    is then the optimizer of the same name, and a rule of `layerpace.rules` makes it layer-wise.

    Subclasses say which state they keep (``state_names``) and what u is (``__call__``). Both see real tensors in the
    dtype of the computation: float32 for half-precision weights, two real numbers for a complex one.

    Attributes:
        layer_state: names of the state that is a number for each layer; ``advance_layers`` moves it on.
        nonnegative: names of the state that is never below zero: squares and sizes. A file that says otherwise is
            damaged, and is not loaded.
        elementwise: whether an entry of u depends on the same entry of g, w and the state alone. One that is not needs
            whole tensors, and is refused on sharded parameters, as is state there that has neither the weight's shape
            nor a name in ``layer_state``. None: a trial on small tensors tells when it first gets a shard.
    """

    names: ClassVar[tuple[str, ...]] = ()
    layer_state: ClassVar[tuple[str, ...]] = ()
    nonnegative: ClassVar[tuple[str, ...]] = ()
    elementwise: ClassVar[bool | None] = None

    def options(self) -> dict[str, Any]:
        """The fields and their values: the defaults of the param groups."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def state_names(self) -> tuple[str, ...]:
        """The names of the state tensors, torch's where torch has them."""
        return ()

    def init(self, w: Tensor, one: Tensor) -> dict[str, Tensor]:
        """The state of a weight w before its first step; zeros, unless a direction says otherwise.

        Args:
            w: the weight, any shape.
            one: a one that broadcasts over w, shape () or (rows, 1, ...) where w has several layers; state that is
                a number for each layer has its shape.
        """
        return {name: zeros(w) for name in self.state_names()}

    def rate(self, t: Scalar) -> Scalar | None:
        """A factor on lr that depends on the number of the step alone; None: there is none."""
        return None

    def advance_layers(self, state: State, t: Scalar) -> None:
        """What the t-th step does to ``layer_state``, in place; also for layers that another process holds."""

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        """u of the t-th step (t = 1, 2, ...); updates ``state`` in place, never ``g`` or ``w``.

        What is returned may be ``g`` itself or a tensor of the state: the caller does not write to it.
        """
        raise NotImplementedError


def zeros(w: Tensor) -> Tensor:
    """A zero state tensor with the memory layout of w."""
    return torch.zeros_like(w, memory_format=torch.preserve_format)


def divide(m: Scalar, v: Tensors, v_correction: Scalar, eps: float, eps_inside_sqrt: bool) -> Tensors:
    """m / (sqrt(v/v_correction) + eps), or m / sqrt(v/v_correction + eps); m is a fresh tensor, or a number.

    The root comes before the correction, as in torch: v/v_correction is inf for a v of 1e37 in the first steps.
    """
    denominator = (v + v_correction * eps).sqrt_() if eps_inside_sqrt else v.sqrt()
    denominator.div_(v_correction.sqrt() if isinstance(v_correction, Tensors) else math.sqrt(v_correction))
    if not eps_inside_sqrt:
        denominator.add_(eps)
    return m.div_(denominator) if isinstance(m, Tensors) else m / denominator
