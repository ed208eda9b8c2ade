"""PercentDelta: equations 6 and 7, the paper's second footnote, "a standard momentum accumulator"."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import State, move


def sign(x: Tensor) -> Tensor:
    """+1 at zero, so that zero is pushed away too."""
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def denominators(w: Tensor, eps: float, min_rms: float) -> Tensor:
    if (w * w).mean().sqrt() < min_rms:
        return torch.clamp(w.abs(), min=min_rms)
    return w + eps * sign(w)


def delta(w: Tensor, u: Tensor, lr: float, eps: float, min_rms: float) -> Tensor:
    total = torch.zeros((), dtype=w.dtype)
    for quotient in (u / denominators(w, eps, min_rms)).reshape(-1):
        total = total + quotient.abs()
    return lr * (w.numel() / total) * u if total > 0 else torch.zeros_like(u)


def step(
    w: Tensor,
    g: Tensor,
    state: State,
    *,
    lr: float,
    momentum: float = 0.9,
    dampening: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    min_rms: float = 1e-3,
    adapt: bool = True,
) -> Tensor:
    d = delta(w, g + weight_decay * w, lr, eps, min_rms) if adapt else lr * g
    return move(w, d, state, momentum, momentum if dampening is None else dampening)
