"""The methods of the overview slides, one function a slide, in the slides' own order and signs.

Each takes the parameters, the gradient there and a state, and returns the new parameters. Two slides
(AdaGrad, the algorithm of AdaDelta) add the update where their own derivation subtracts it: the sign of the
derivation stands here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .common import State
from .directions import past


def momentum(theta: Tensor, g: Tensor, state: State, *, eta: float, mu: float = 0.9) -> Tensor:
    state["v"] = mu * past(state, "v", g) - eta * g
    return theta + state["v"]


def ema_momentum(theta: Tensor, g: Tensor, state: State, *, eta: float, beta: float = 0.9) -> Tensor:
    state["g"] = beta * past(state, "g", g) + (1 - beta) * g
    return theta - eta * state["g"]


def nesterov(
    theta: Tensor, gradient: Callable[[Tensor], Tensor], state: State, *, eta: float, mu: float = 0.9
) -> Tensor:
    """Sutskever's form: the gradient is taken where the velocity leads, theta + mu*v."""
    v = past(state, "v", theta)
    state["v"] = mu * v - eta * gradient(theta + mu * v)
    return theta + state["v"]


def adagrad(theta: Tensor, g: Tensor, state: State, *, eta: float, eps: float) -> Tensor:
    state["s"] = past(state, "s", g) + g * g
    return theta - eta / torch.sqrt(state["s"] + eps) * g


def adadelta(theta: Tensor, g: Tensor, state: State, *, rho: float = 0.9, eps: float = 1e-6) -> Tensor:
    state["v"] = rho * past(state, "v", g) + (1 - rho) * g * g
    d = past(state, "d", g)
    delta = torch.sqrt((d + eps) / (state["v"] + eps)) * g
    state["d"] = rho * d + (1 - rho) * delta * delta
    return theta - delta


def rmsprop(theta: Tensor, g: Tensor, state: State, *, eta: float, beta: float, eps: float) -> Tensor:
    state["v"] = beta * past(state, "v", g) + (1 - beta) * g * g
    return theta - eta * g / torch.sqrt(state["v"] + eps)


def centered_rmsprop(theta: Tensor, g: Tensor, state: State, *, eta: float, beta: float, eps: float) -> Tensor:
    second = state["v"] = beta * past(state, "v", g) + (1 - beta) * g * g
    first = state["a"] = beta * past(state, "a", g) + (1 - beta) * g
    return theta - eta * g / torch.sqrt(second - first * first + eps)


def adam(
    theta: Tensor,
    g: Tensor,
    state: State,
    *,
    eta: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    inside: bool = False,
) -> Tensor:
    """The slide has eps outside the root in its equation and inside it in its algorithm."""
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * past(state, "m", g) + (1 - beta1) * g
    state["v"] = beta2 * past(state, "v", g) + (1 - beta2) * g * g
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    return theta - eta * m_hat / (torch.sqrt(v_hat + eps) if inside else torch.sqrt(v_hat) + eps)


def radam(theta: Tensor, g: Tensor, state: State, *, eta: float, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    t = state["t"] = state.get("t", 0) + 1
    rho_inf = 2 / (1 - beta2) - 1
    state["m"] = beta1 * past(state, "m", g) + (1 - beta1) * g
    state["v"] = beta2 * past(state, "v", g) + (1 - beta2) * g * g
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho > 4:
        r = (((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
        return theta - eta * r * m_hat / torch.sqrt(v_hat)
    return theta - eta * m_hat
