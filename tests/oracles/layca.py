"""Layca, the four operations of algorithm 1 one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .common import State, norm, phi


def rotate(w: Tensor, s: Tensor, state: State, lr: float, min_rms: float) -> Tensor:
    if "initial_norm" not in state:
        state["initial_norm"] = phi(w, min_rms)
    u_norm = norm(s)
    if (w * w).sum() > 0:
        s = s - (s * w).sum() * w / (w * w).sum()  # 1: project the step on the space orthogonal to w
    if lr == 0 or norm(s) <= 1e-6 * u_norm:
        return w
    s = s * phi(w, min_rms) / norm(s)  # 2: rotation-based normalisation
    w = w - lr * s  # 3: the update
    return w * state["initial_norm"] / norm(w)  # 4: back on the sphere


def step(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: float,
    direction: Callable[[Tensor, State], Tensor],
    min_rms: float = 1e-3,
    adapt: bool = True,
) -> Tensor:
    u = direction(g, state)
    return rotate(w, u, state, lr, min_rms) if adapt else w - lr * torch.as_tensor(u)
