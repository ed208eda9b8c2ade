"""LARS: the ratio on the raw gradient, the learning rate inside the velocity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .common import State, clipped, move, norm, phi


def step(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    trust_coefficient: float = 1e-3,
    trust_clip: Any = None,
    eps: float = 1e-8,
    dampening: float = 0.0,
    min_rms: float = 1e-3,
    adapt: bool = True,
) -> Tensor:
    if adapt:
        denominator = norm(g) + weight_decay * norm(w) + eps
        ratio = torch.ones_like(denominator)
        if denominator > 0:
            ratio = trust_coefficient * phi(w, min_rms) / denominator
        local_lr = lr * clipped(ratio, trust_clip, lr)
        d = local_lr * (g + weight_decay * w)
    else:
        d = lr * g
    return move(w, d, state, momentum, dampening, nesterov)
