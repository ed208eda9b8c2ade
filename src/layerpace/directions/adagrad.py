"""AdaGrad and AdaDelta: each weight's gradient over the size of its gradients so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from layerpace.directions.base import Direction, State, divide, zeros
from layerpace.engine.common.checks import keep_flag, keep_range
from layerpace.engine.numerics.tensors import Scalar, Tensors


@dataclass(frozen=True)
class AdaGrad(Direction):
    """The gradient over the root of the sum of all squared gradients::

        s <- s + g*g
        u  = g / (sqrt(s) + eps) / (1 + (t - 1)*lr_decay)

    Equals ``torch.optim.Adagrad``. The overview has eps inside the root: ``eps_inside_sqrt=True``.

    Args:
        lr_decay: delta, >= 0.
        initial_accumulator_value: s_0, >= 0, squared units of the gradient.
        eps: >= 0, units of the gradient (of its square inside the root).
        eps_inside_sqrt: u = g / sqrt(s + eps).

    Reference: Duchi et al. (2011); the overview, "Adaptive (Sub)Gradient Method".
    """

    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    eps_inside_sqrt: bool = False
    names: ClassVar[tuple[str, ...]] = ("adagrad",)
    nonnegative: ClassVar[tuple[str, ...]] = ("sum",)

    def __post_init__(self) -> None:
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            keep_range(self, name, 0)
        keep_flag(self, "eps_inside_sqrt")

    def state_names(self) -> tuple[str, ...]:
        return ("sum",)

    def init(self, w: Tensor, one: Tensor) -> dict[str, Tensor]:
        return {"sum": zeros(w).fill_(self.initial_accumulator_value)}

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        s = state["sum"].addcmul_(g, g)
        u = divide(g.clone(), s, 1.0, self.eps, self.eps_inside_sqrt)
        return u.div_(1 + (t - 1) * self.lr_decay) if self.lr_decay else u


@dataclass(frozen=True)
class AdaDelta(Direction):
    """The gradient, scaled by the ratio of the running sizes of steps and gradients::

        v <- rho*v + (1 - rho)*g*g
        u  = sqrt((d + eps) / (v + eps)) * g
        d <- rho*d + (1 - rho)*u*u

    Equals ``torch.optim.Adadelta``; the overview's form is the same.

    Args:
        rho: in [0, 1].
        eps: >= 0.

    Reference: Zeiler (2012); the overview, "AdaDelta".
    """

    rho: float = 0.9
    eps: float = 1e-6
    names: ClassVar[tuple[str, ...]] = ("adadelta",)
    nonnegative: ClassVar[tuple[str, ...]] = ("square_avg", "acc_delta")

    def __post_init__(self) -> None:
        keep_range(self, "rho", 0, 1)
        keep_range(self, "eps", 0)

    def state_names(self) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        v, d = state["square_avg"], state["acc_delta"]
        v.mul_(self.rho).addcmul_(g, g, 1 - self.rho)
        u = (d + self.eps).sqrt_().div_((v + self.eps).sqrt_()).mul_(g)
        d.mul_(self.rho).addcmul_(u, u, 1 - self.rho)
        return u
