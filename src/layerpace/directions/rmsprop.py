"""RMSProp: each weight's gradient over the running size of its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerpace.directions.base import Direction, State, divide
from layerpace.engine.common.checks import keep_flag, keep_range
from layerpace.engine.numerics.tensors import Scalar, Tensors


@dataclass(frozen=True)
class RMSProp(Direction):
    """The gradient over the root of the moving average of its square::

        v <- alpha*v + (1 - alpha)*g*g
        a <- alpha*a + (1 - alpha)*g               (centered; else a = 0)
        u  = g / (sqrt(v - a*a) + eps)

    With momentum, b <- momentum*b + u, and b is the direction. v - a*a, a variance, counts as 0 where rounding leaves
    less. Equals ``torch.optim.RMSprop`` otherwise. The overview has eps inside the root (``eps_inside_sqrt=True``), and
    Hinton's alpha is 0.9.

    Args:
        alpha: in [0, 1).
        eps: >= 0, units of the gradient (of its square inside the root).
        centered: divide by the standard deviation instead of the root mean square.
        momentum: in [0, 1).
        eps_inside_sqrt: u = g / sqrt(v - a*a + eps).

    Reference: Tieleman and Hinton (2012); the overview, "RMSProp" and "RMSProp Variants".
    """

    alpha: float = 0.99
    eps: float = 1e-8
    centered: bool = False
    momentum: float = 0.0
    eps_inside_sqrt: bool = False
    names: ClassVar[tuple[str, ...]] = ("rmsprop",)
    nonnegative: ClassVar[tuple[str, ...]] = ("square_avg",)

    def __post_init__(self) -> None:
        keep_range(self, "alpha", 0, 1, open_high=True)
        keep_range(self, "eps", 0)
        keep_range(self, "momentum", 0, 1, open_high=True)
        keep_flag(self, "centered", "eps_inside_sqrt")

    def state_names(self) -> tuple[str, ...]:
        return ("square_avg",) + ("grad_avg",) * self.centered + ("momentum_buffer",) * (self.momentum > 0)

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        v = state["square_avg"].mul_(self.alpha).addcmul_(g, g, 1 - self.alpha)
        if self.centered:
            a = state["grad_avg"].lerp_(g, 1 - self.alpha)
            v = v.clone().addcmul_(a, a, -1.0).clamp_min_(0.0)  # rounding may leave less than nothing
        u = divide(g.clone(), v, 1.0, self.eps, self.eps_inside_sqrt)
        if self.momentum > 0:
            return state["momentum_buffer"].mul_(self.momentum).add_(u)
        return u
