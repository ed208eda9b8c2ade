"""Directions: the gradient, or what a torch.optim method multiplies with its learning rate.

Each is a function of the gradient and a state of its own; options are bound by a keyword call, as in
`functools.partial(adam, betas=(0.9, 0.99))`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common import State


def past(state: State, name: str, like: Tensor, value: float = 0.0) -> Tensor:
    return state[name] if name in state else torch.full_like(like, value)


def count(state: State) -> int:
    state["t"] = state.get("t", 0) + 1
    return int(state["t"])


def sgd(g: Tensor, state: State) -> Tensor:
    return g


def heavy_ball(g: Tensor, state: State, momentum: float = 0.9, dampening: float = 0.0) -> Tensor:
    b = momentum * state["b"] + (1 - dampening) * g if "b" in state else g.clone()
    state["b"] = b
    return b


def nesterov(g: Tensor, state: State, momentum: float = 0.9) -> Tensor:
    return g + momentum * heavy_ball(g, state, momentum)


def ema_momentum(g: Tensor, state: State, beta: float = 0.9) -> Tensor:
    state["b"] = beta * past(state, "b", g) + (1 - beta) * g
    return state["b"]


def adagrad(
    g: Tensor, state: State, eps: float = 1e-10, initial_accumulator_value: float = 0.0, lr_decay: float = 0.0
) -> Tensor:
    t = count(state)
    state["s"] = past(state, "s", g, initial_accumulator_value) + g * g
    return g / (torch.sqrt(state["s"]) + eps) / (1 + (t - 1) * lr_decay)


def adadelta(g: Tensor, state: State, rho: float = 0.9, eps: float = 1e-6) -> Tensor:
    v = rho * past(state, "s", g) + (1 - rho) * g * g
    delta = torch.sqrt(past(state, "d", g) + eps) / torch.sqrt(v + eps) * g
    state.update(s=v, d=rho * past(state, "d", g) + (1 - rho) * delta * delta)
    return delta


def rmsprop(
    g: Tensor,
    state: State,
    alpha: float = 0.99,
    eps: float = 1e-8,
    centered: bool = False,
    momentum: float = 0.0,
) -> Tensor:
    second = state["s"] = alpha * past(state, "s", g) + (1 - alpha) * g * g
    if centered:
        mean = state["a"] = alpha * past(state, "a", g) + (1 - alpha) * g
        second = second - mean * mean
    u = g / (torch.sqrt(second) + eps)
    if momentum > 0:
        u = state["b"] = momentum * past(state, "b", g) + u
    return u


def moments(
    g: Tensor, state: State, betas: tuple[float, float], grad_averaging: bool = True
) -> tuple[int, Tensor, Tensor]:
    t = count(state)
    state["m"] = betas[0] * past(state, "m", g) + ((1 - betas[0]) if grad_averaging else 1.0) * g
    state["s"] = betas[1] * past(state, "s", g) + (1 - betas[1]) * g * g
    return t, state["m"], state["s"]


def adam(
    g: Tensor,
    state: State,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    bias_correction: bool = True,
    grad_averaging: bool = True,
    eps_inside_sqrt: bool = False,
) -> Tensor:
    t, m, v = moments(g, state, betas, grad_averaging)
    if amsgrad:
        v = state["max"] = torch.maximum(past(state, "max", g), v)
    if bias_correction:
        m, v = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return m / torch.sqrt(v + eps) if eps_inside_sqrt else m / (torch.sqrt(v) + eps)


def amsgrad(g: Tensor, state: State, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Tensor:
    return adam(g, state, betas, eps, amsgrad=True)


def adamax(g: Tensor, state: State, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Tensor:
    t = count(state)
    state["m"] = betas[0] * past(state, "m", g) + (1 - betas[0]) * g
    state["inf"] = torch.maximum(betas[1] * past(state, "inf", g), g.abs() + eps)
    return state["m"] / (1 - betas[0] ** t) / state["inf"]


def nadam(
    g: Tensor,
    state: State,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
) -> Tensor:
    t, m, v = moments(g, state, betas)
    mu = betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = betas[0] * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = state["product"] = state.get("product", 1.0) * mu
    denominator = torch.sqrt(v / (1 - betas[1] ** t)) + eps
    return (1 - mu) / (1 - product) * g / denominator + mu_next / (1 - product * mu_next) * m / denominator


def radam(
    g: Tensor,
    state: State,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    threshold: float = 5.0,
) -> Tensor:
    t, m, v = moments(g, state, betas)
    m_hat = m / (1 - betas[0] ** t)
    rho_inf = 2 / (1 - betas[1]) - 1
    rho = rho_inf - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    if rho <= threshold:
        return m_hat
    rectification = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    return rectification * m_hat * (1 - betas[1] ** t) ** 0.5 / (torch.sqrt(v) + eps)


DIRECTIONS = {
    "sgd": sgd,
    "heavy_ball": heavy_ball,
    "nesterov": nesterov,
    "ema_momentum": ema_momentum,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
    "adam": adam,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "nadam": nadam,
    "radam": radam,
}
