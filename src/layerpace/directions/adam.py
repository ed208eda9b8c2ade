"""Adam and its variants: a moving average of the gradient over the running size of it.

Where bias correction stands: inside u, before any rule sees it. eps stands outside of the root unless
``eps_inside_sqrt``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from layerpace.directions.base import Direction, State, divide, zeros
from layerpace.engine.common.checks import keep_betas, keep_flag, keep_range
from layerpace.engine.numerics.tensors import Scalar, Tensors, choose, positive_root


@dataclass(frozen=True)
class Adam(Direction):
    """Adaptive moment estimation::

        m <- beta1*m + (1 - beta1)*g
        v <- beta2*v + (1 - beta2)*g*g
        u  = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Equals ``torch.optim.Adam``; with decoupled weight decay ``torch.optim.AdamW``.

    Args:
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        amsgrad: divide by the largest v so far (Reddi et al., 2018).
        bias_correction: divide the moments by 1 - beta^t (True), do not (False), or multiply lr by
            sqrt(1 - beta2^t) / (1 - beta1^t) instead ("after"), which a rule does not see in u.
        grad_averaging: weigh a new gradient by 1 - beta1 in m; otherwise by 1.
        eps_inside_sqrt: divide by sqrt(v + eps), as in algorithm 1 of the LAMBC paper.

    Reference: Kingma and Ba (2015); the overview, "Adaptive Moment Estimation".
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    bias_correction: bool | Literal["after"] = True
    grad_averaging: bool = True
    eps_inside_sqrt: bool = False
    names: ClassVar[tuple[str, ...]] = ("adam",)
    nonnegative: ClassVar[tuple[str, ...]] = ("exp_avg_sq", "max_exp_avg_sq")

    def __post_init__(self) -> None:
        keep_betas(self)
        keep_range(self, "eps", 0)
        keep_flag(self, "amsgrad", "grad_averaging", "eps_inside_sqrt")
        keep_flag(self, "bias_correction", or_text="after")

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * self.amsgrad

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        beta1, beta2 = self.betas
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.lerp_(g, 1 - beta1) if self.grad_averaging else m.mul_(beta1).add_(g)
        v.mul_(beta2).addcmul_(g, g, 1 - beta2)
        if self.amsgrad:
            v = state["max_exp_avg_sq"].maximum_(v)
        if self.bias_correction is not True:
            return divide(m.clone(), v, 1.0, self.eps, self.eps_inside_sqrt)
        return divide(m.clone(), v, 1 - beta2**t, self.eps, self.eps_inside_sqrt).div_(1 - beta1**t)

    def rate(self, t: Scalar) -> Scalar | None:
        beta1, beta2 = self.betas
        return positive_root(1 - beta2**t) / (1 - beta1**t) if self.bias_correction == "after" else None


@dataclass(frozen=True)
class AMSGrad(Adam):
    """`Adam` with ``amsgrad=True``: the second moment never falls.

    Reference: Reddi et al. (2018); the overview, "Adam Variations".
    """

    amsgrad: bool = True
    names: ClassVar[tuple[str, ...]] = ("amsgrad",)


@dataclass(frozen=True)
class AdaMax(Direction):
    """Adam with the largest recent gradient in the place of the root mean square::

        m <- beta1*m + (1 - beta1)*g
        n <- max(beta2*n, |g| + eps)
        u  = m / (1 - beta1^t) / n

    Equals ``torch.optim.Adamax``.

    Args:
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.

    Reference: Kingma and Ba (2015), section 7.1; the overview, "Adam Variations".
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    names: ClassVar[tuple[str, ...]] = ("adamax",)
    nonnegative: ClassVar[tuple[str, ...]] = ("exp_inf",)

    def __post_init__(self) -> None:
        keep_betas(self)
        keep_range(self, "eps", 0)

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        beta1, beta2 = self.betas
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        n = state["exp_inf"].mul_(beta2).maximum_(g.abs().add_(self.eps))
        return (m / (1 - beta1**t)).div_(n)


@dataclass(frozen=True)
class NAdam(Direction):
    """Adam with Nesterov's momentum::

        mu_t = beta1*(1 - 0.96^(t*momentum_decay) / 2),   P_t = mu_1 * mu_2 * ... * mu_t
        m <- beta1*m + (1 - beta1)*g
        v <- beta2*v + (1 - beta2)*g*g
        u  = ((1 - mu_t)*g / (1 - P_t) + mu_(t+1)*m / (1 - P_(t+1))) / (sqrt(v / (1 - beta2^t)) + eps)

    Equals ``torch.optim.NAdam``.

    Args:
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        momentum_decay: psi, >= 0.

    Reference: Dozat (2016); the overview, "Adam Variations".
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum_decay: float = 4e-3
    names: ClassVar[tuple[str, ...]] = ("nadam",)
    layer_state: ClassVar[tuple[str, ...]] = ("mu_product",)
    nonnegative: ClassVar[tuple[str, ...]] = ("exp_avg_sq", "mu_product")

    def __post_init__(self) -> None:
        keep_betas(self)
        keep_range(self, "eps", 0)
        keep_range(self, "momentum_decay", 0)

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "mu_product")

    def init(self, w: Tensor, one: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": zeros(w), "exp_avg_sq": zeros(w), "mu_product": one.clone()}

    def _mu(self, t: Scalar) -> Scalar:
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def advance_layers(self, state: State, t: Scalar) -> None:
        state["mu_product"].mul_(self._mu(t))

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        beta1, beta2 = self.betas
        mu, mu_next = self._mu(t), self._mu(t + 1)
        self.advance_layers(state, t)
        product = state["mu_product"]
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, 1 - beta2)
        m_hat = (g * ((1 - mu) / (1 - product))).add_(m * (mu_next / (1 - product * mu_next)))
        return divide(m_hat, v, 1 - beta2**t, self.eps, False)


@dataclass(frozen=True)
class RAdam(Direction):
    """Adam that waits for the variance of its second moment to settle::

        m <- beta1*m + (1 - beta1)*g
        v <- beta2*v + (1 - beta2)*g*g
        rho_inf = 2 / (1 - beta2) - 1,   rho = rho_inf - 2*t*beta2^t / (1 - beta2^t)
        r  = sqrt((rho - 4)*(rho - 2)*rho_inf / ((rho_inf - 4)*(rho_inf - 2)*rho))
        u  = r * m / (1 - beta1^t) * sqrt(1 - beta2^t) / (sqrt(v) + eps)    where rho > threshold
        u  = m / (1 - beta1^t)                                              elsewhere

    Equals ``torch.optim.RAdam``, eps within the correction of v. The overview's form is ``threshold=4.0, eps=0.0``.

    Args:
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        threshold: the length of the moving average from which on u is adaptive, >= 4.

    Reference: Liu et al. (2019); the overview, "RAdam".
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    threshold: float = 5.0
    names: ClassVar[tuple[str, ...]] = ("radam",)
    nonnegative: ClassVar[tuple[str, ...]] = ("exp_avg_sq",)

    def __post_init__(self) -> None:
        keep_betas(self)
        keep_range(self, "eps", 0)
        keep_range(self, "threshold", 4)

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        beta1, beta2 = self.betas
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, 1 - beta2)
        m_hat = m / (1 - beta1**t)

        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)

        def rectified() -> Tensors:
            r = positive_root((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            return (m_hat * (r * positive_root(1 - beta2**t))).div_(v.sqrt().add_(self.eps))

        return choose(rho, self.threshold, rectified, lambda: m_hat)
