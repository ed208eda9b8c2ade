"""LAMB, and LAMBC with its trust clip (algorithm 1 of the LAMBC paper, and LAMB's own order of decay)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .common import State, clipped, norm, phi


def step(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    trust_clip: Any = None,
    bias_correction: bool = True,
    eps_inside_sqrt: bool = False,
    decay_in_norm: bool = True,
    always_adapt: bool = True,
    grad_averaging: bool = True,
    min_rms: float = 1e-3,
    adapt: bool = True,
) -> Tensor:
    beta1, beta2 = betas
    t = state.get("t", 0) + 1
    m = beta1 * state.get("m", torch.zeros_like(w)) + ((1 - beta1) if grad_averaging else 1.0) * g
    v = beta2 * state.get("v", torch.zeros_like(w)) + (1 - beta2) * g * g
    state.update(t=t, m=m, v=v)
    if bias_correction:
        m = m / (1 - beta1**t)
        v = v / (1 - beta2**t)
    r = m / torch.sqrt(v + eps) if eps_inside_sqrt else m / (torch.sqrt(v) + eps)
    if not adapt:
        return w - lr * r
    total = r + weight_decay * w
    ratio = torch.ones((), dtype=w.dtype)
    if always_adapt or weight_decay != 0:
        denominator = norm(total) if decay_in_norm else norm(r)
        if denominator > 0:
            ratio = phi(w, min_rms) / denominator
        ratio = clipped(ratio, trust_clip, lr)
    return w - lr * ratio * total
