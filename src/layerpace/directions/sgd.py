"""The gradient, and its running averages.

The learning rate stands outside of the momentum buffer in all of them, as in torch.optim.SGD. The overview's form,
v <- mu*v - lr*g, with lr inside, is the velocity of `layerpace.Layerwise` after the identity rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.directions.base import Direction, State
from layerpace.engine.common.checks import keep_range
from layerpace.engine.numerics.tensors import Scalar, Tensors


@dataclass(frozen=True)
class SGD(Direction):
    """The gradient itself::

        u = g

    Reference: Vadivelu, *Gradient-Based NN Optimization: An Overview* (2019), "Mini-Batch Gradient Descent".
    """

    names: ClassVar[tuple[str, ...]] = ("sgd",)

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        return g


def _accumulate(buffer: Tensors, g: Tensors, momentum: float, dampening: float, t: Scalar) -> Tensors:
    """buffer <- momentum*buffer + (1 - dampening)*g; the first gradient enters whole, as in torch.optim.SGD."""
    if dampening == 0:
        return buffer.mul_(momentum).add_(g)
    if not isinstance(t, Tensors):
        return buffer.copy_(g) if t == 1 else buffer.mul_(momentum).add_(g * (1 - dampening))
    later = (buffer * momentum).add_(g * (1 - dampening))
    return buffer.copy_(Tensors([torch.where(s == 1, a, b) for s, a, b in zip(t, g, later, strict=True)]))


@dataclass(frozen=True)
class HeavyBall(Direction):
    """Polyak's momentum: a sum of all gradients, each weighted by how old it is::

        b <- momentum*b + (1 - dampening)*g        (b <- g on the first step)
        u  = b

    Equals ``torch.optim.SGD(momentum=..., dampening=...)``. With gradients that agree, u grows to 1/(1 - momentum)
    times the gradient.

    Args:
        momentum: mu, in [0, 1).
        dampening: tau, in [0, 1].

    Without momentum and dampening no buffer is kept.

    Reference: Polyak (1964); the overview, "Momentum (aka Heavy-Ball)".
    """

    momentum: float = 0.9
    dampening: float = 0.0
    names: ClassVar[tuple[str, ...]] = ("heavy_ball", "momentum")

    def __post_init__(self) -> None:
        keep_range(self, "momentum", 0, 1, open_high=True)
        keep_range(self, "dampening", 0, 1)

    def state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum or self.dampening else ()

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        if not (self.momentum or self.dampening):
            return g
        return _accumulate(state["momentum_buffer"], g, self.momentum, self.dampening, t)


@dataclass(frozen=True)
class Nesterov(Direction):
    """Nesterov's accelerated gradient, in the form of Sutskever et al::

        b <- momentum*b + g
        u  = g + momentum*b

    Equals ``torch.optim.SGD(momentum=..., nesterov=True)``.

    Args:
        momentum: mu, in [0, 1).

    Reference: Nesterov (1983), Sutskever et al. (2013); the overview, "Nesterov's Accelerated Gradient".
    """

    momentum: float = 0.9
    names: ClassVar[tuple[str, ...]] = ("nesterov",)

    def __post_init__(self) -> None:
        keep_range(self, "momentum", 0, 1, open_high=True)

    def state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        buffer = _accumulate(state["momentum_buffer"], g, self.momentum, 0.0, t)
        return (buffer * self.momentum).add_(g)


@dataclass(frozen=True)
class EMAMomentum(Direction):
    """An exponential moving average of the gradients, without bias correction::

        v <- beta*v + (1 - beta)*g
        u  = v

    The layer-rotation paper's SGD_AMom: the first half of Adam without the second.

    Args:
        beta: in [0, 1).

    Reference: *An experimental study of layer-level training speed* (2019), B.4; the overview, "Alternate
    Momentum Formula".
    """

    beta: float = 0.9
    names: ClassVar[tuple[str, ...]] = ("ema_momentum", "sgd_amom")

    def __post_init__(self) -> None:
        keep_range(self, "beta", 0, 1, open_high=True)

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg",)

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        return state["exp_avg"].lerp_(g, 1 - self.beta)
