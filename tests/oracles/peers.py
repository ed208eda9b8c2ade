"""LAMB and LARS as other libraries step them, one float64 function a library and method.

What each does was read from its source and measured against the library itself where it runs without a GPU
(timm 1.0.31, optax 0.2.8, lightning-bolts 0.7.0, apex's LARC). A function takes all layers of an optimizer
at once, since some clip the global gradient norm, and returns the new weights. Options are per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .common import State, Weights, norm

Options = Mapping[str, Mapping[str, Any]]
States = dict[str, State]


def global_norm(grads: Weights) -> Tensor:
    return torch.stack([norm(g) for g in grads.values()]).square().sum().sqrt()


def fresh(state: State, w: Tensor) -> None:
    if not state:
        state.update(t=0, m=torch.zeros_like(w), v=torch.zeros_like(w))


def lamb_apex(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """apex FusedLAMB and timm Lamb, defaults: global clip at 1; no ratio in groups without weight decay."""
    new = {}
    total_norm = global_norm(grads)
    for name, w in weights.items():
        o = {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "bias_correction": True,
            "grad_averaging": True,
            "always_adapt": False,
            **options[name],
        }
        state = states[name]
        fresh(state, w)
        state["t"] += 1
        g = grads[name]
        if o["max_grad_norm"] is not None and total_norm > o["max_grad_norm"]:
            g = g / (total_norm / o["max_grad_norm"])
        beta1, beta2 = o["betas"]
        state["m"] = beta1 * state["m"] + ((1 - beta1) if o["grad_averaging"] else 1.0) * g
        state["v"] = beta2 * state["v"] + (1 - beta2) * g * g
        correction1 = 1 - beta1 ** state["t"] if o["bias_correction"] else 1.0
        correction2 = 1 - beta2 ** state["t"] if o["bias_correction"] else 1.0
        update = (state["m"] / correction1) / (torch.sqrt(state["v"] / correction2) + o["eps"])
        update = update + o["weight_decay"] * w
        size = o["lr"]
        adapts = o["always_adapt"] or o["weight_decay"] != 0
        if adapts and norm(w) != 0 and norm(update) != 0:
            size = o["lr"] * (norm(w) / norm(update))
        new[name] = w - size * update
    return new


def lamb_optax(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """optax lamb: Adam with corrected moments, plus decay, times the ratio; every tensor adapts."""
    new = {}
    for name, w in weights.items():
        o = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, **options[name]}
        state = states[name]
        fresh(state, w)
        state["t"] += 1
        beta1, beta2 = o["betas"]
        state["m"] = beta1 * state["m"] + (1 - beta1) * grads[name]
        state["v"] = beta2 * state["v"] + (1 - beta2) * grads[name] ** 2
        m_hat = state["m"] / (1 - beta1 ** state["t"])
        v_hat = state["v"] / (1 - beta2 ** state["t"])
        update = m_hat / (torch.sqrt(v_hat) + o["eps"]) + o["weight_decay"] * w
        ratio = 1.0 if norm(w) == 0 or norm(update) == 0 else norm(w) / norm(update)
        new[name] = w - o["lr"] * ratio * update
    return new


def lamb_deepspeed(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """DeepSpeed FusedLamb: raw moments in the update and its norm; the bias correction scales the step."""
    new = {}
    for name, w in weights.items():
        o = {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "min_coeff": 0.01,
            "max_coeff": 10.0,
            **options[name],
        }
        state = states[name]
        fresh(state, w)
        state["t"] += 1
        beta1, beta2 = o["betas"]
        state["m"] = beta1 * state["m"] + (1 - beta1) * grads[name]
        state["v"] = beta2 * state["v"] + (1 - beta2) * grads[name] ** 2
        update = state["m"] / (torch.sqrt(state["v"]) + o["eps"]) + o["weight_decay"] * w
        coefficient = torch.ones((), dtype=w.dtype)
        if norm(w) != 0 and norm(update) != 0:
            coefficient = torch.clamp(norm(w) / norm(update), o["min_coeff"], o["max_coeff"])
        size = o["lr"] * (1 - beta2 ** state["t"]) ** 0.5 / (1 - beta1 ** state["t"])
        new[name] = w - size * coefficient * update
    return new


def torch_sgd(
    w: Tensor, d: Tensor, state: State, *, lr: float, momentum: float, dampening: float, nesterov: bool
) -> Tensor:
    """torch.optim.SGD's momentum: seeded with the first d, undamped; the learning rate outside of it."""
    if momentum == 0:
        return w - lr * d
    b = momentum * state["b"] + (1 - dampening) * d if "b" in state else d
    state["b"] = b
    return w - lr * (d + momentum * b if nesterov else b)


SGD = {"lr": 1.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False}


def lars_timm(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """timm Lars: groups without weight decay are plain SGD; a zero norm gives ratio 1 and keeps the decay."""
    new = {}
    for name, w in weights.items():
        o = {
            **SGD,
            "weight_decay": 0.0,
            "trust_coefficient": 1e-3,
            "eps": 1e-8,
            "always_adapt": False,
            "larc": False,
            **options[name],
        }
        g = grads[name]
        if o["weight_decay"] != 0 or o["always_adapt"]:
            ratio = torch.ones((), dtype=w.dtype)
            if norm(w) > 0 and norm(g) > 0:
                ratio = o["trust_coefficient"] * norm(w) / (norm(g) + norm(w) * o["weight_decay"] + o["eps"])
            if o["larc"]:
                ratio = torch.clamp(ratio / o["lr"], max=1.0)
            g = ratio * (g + o["weight_decay"] * w)
        new[name] = torch_sgd(w, g, states[name], **{key: o[key] for key in SGD})
    return new


def lars_lightning_bolts(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """lightning-bolts LARS: timm's, but a zero norm drops the decay too."""
    new = {}
    for name, w in weights.items():
        o = {**SGD, "weight_decay": 0.0, "trust_coefficient": 1e-3, "eps": 1e-8, **options[name]}
        d = grads[name]
        if o["weight_decay"] != 0 and norm(w) != 0 and norm(d) != 0:
            ratio = norm(w) / (norm(d) + norm(w) * o["weight_decay"] + o["eps"]) * o["trust_coefficient"]
            d = ratio * (d + o["weight_decay"] * w)
        new[name] = torch_sgd(w, d, states[name], **{key: o[key] for key in SGD})
    return new


def larc_apex(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """apex LARC around torch.optim.SGD: min(ratio/lr, 1); a zero norm leaves the gradient, without decay."""
    new = {}
    for name, w in weights.items():
        o = {
            **SGD,
            "weight_decay": 0.0,
            "trust_coefficient": 0.02,
            "eps": 1e-8,
            "clip": True,
            **options[name],
        }
        d = grads[name]
        if norm(w) != 0 and norm(d) != 0:
            ratio = o["trust_coefficient"] * norm(w) / (norm(d) + norm(w) * o["weight_decay"] + o["eps"])
            if o["clip"]:
                ratio = torch.clamp(ratio / o["lr"], max=1.0)
            d = ratio * (d + o["weight_decay"] * w)
        new[name] = torch_sgd(w, d, states[name], **{key: o[key] for key in SGD})
    return new


def lars_optax(weights: Weights, grads: Weights, states: States, options: Options) -> Weights:
    """optax lars: the norm of g + decay together; the learning rate inside a trace that starts at zero."""
    new = {}
    for name, w in weights.items():
        o = {
            "weight_decay": 0.0,
            "trust_coefficient": 1e-3,
            "eps": 0.0,
            "momentum": 0.9,
            "nesterov": False,
            **options[name],
        }
        total = grads[name] + o["weight_decay"] * w
        ratio = 1.0
        if norm(w) != 0 and norm(total) != 0:
            ratio = o["trust_coefficient"] * norm(w) / (norm(total) + o["eps"])
        d = o["lr"] * ratio * total
        trace = d + o["momentum"] * states[name].get("trace", torch.zeros_like(w))
        states[name]["trace"] = trace
        new[name] = w - (d + o["momentum"] * trace if o["nesterov"] else trace)
    return new
