"""Rules as displacements: from a layer's weights and its direction to what is subtracted from the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import layca, percent_delta
from .common import State, clipped, norm, phi


def identity(w: Tensor, u: Tensor, state: State, *, lr: float, weight_decay: float, min_rms: float) -> Tensor:
    return lr * (u + weight_decay * w)


def trust_ratio(
    w: Tensor,
    u: Tensor,
    state: State,
    *,
    lr: float,
    weight_decay: float,
    min_rms: float,
    coefficient: float = 1.0,
    clip: Any = None,
    eps: float = 0.0,
    norm_of: str = "total",
    always_adapt: bool = True,
    zero_ratio: float | None = None,
) -> Tensor:
    total = u + weight_decay * w
    if weight_decay == 0 and not always_adapt:
        return lr * total
    length = {
        "total": norm(total),
        "sum": norm(u) + weight_decay * norm(w),
        "direction": norm(u),
    }[norm_of]
    if length + eps == 0:
        ratio = torch.ones((), dtype=w.dtype)
    else:
        ratio = clipped(coefficient * phi(w, min_rms) / (length + eps), clip, lr, state)
    if zero_ratio is not None and (norm(w) == 0 or (length if norm_of == "total" else norm(u)) == 0):
        ratio = torch.tensor(zero_ratio, dtype=w.dtype)
    return lr * ratio * total


def percent(
    w: Tensor,
    u: Tensor,
    state: State,
    *,
    lr: float,
    weight_decay: float,
    min_rms: float,
    eps: float = 1e-8,
) -> Tensor:
    assert weight_decay == 0, "coupled: the caller adds it to the gradient"
    return percent_delta.delta(w, u, lr, eps, min_rms)


def relative_l1(w: Tensor, u: Tensor, state: State, *, lr: float, weight_decay: float, min_rms: float) -> Tensor:
    assert weight_decay == 0, "coupled: the caller adds it to the gradient"
    size = max(float(w.abs().sum()), min_rms * w.numel())
    total = float(u.abs().sum())
    return lr * size / total * u if total > 0 else torch.zeros_like(u)


def rotation(w: Tensor, u: Tensor, state: State, *, lr: float, weight_decay: float, min_rms: float) -> Tensor:
    assert weight_decay == 0, "coupled: the caller adds it to the gradient"
    return w - layca.rotate(w, u, state, lr, min_rms)


def limited_norm(
    w: Tensor, u: Tensor, state: State, *, lr: float, weight_decay: float, min_rms: float, growth: float = 1e-4
) -> Tensor:
    assert weight_decay == 0, "coupled: the caller adds it to the gradient"
    initial = state.setdefault("initial_norm", phi(w, min_rms))
    if norm(u) == 0 or lr == 0:
        return torch.zeros_like(w)
    new = w - lr * u * phi(w, min_rms) / norm(u)
    limit = phi(w, min_rms) + growth * initial
    return w - (new * limit / norm(new) if norm(new) > limit else new)


RULES = {
    "identity": identity,
    "trust_ratio": trust_ratio,
    "percent_delta": percent,
    "relative_l1": relative_l1,
    "rotation": rotation,
    "limited_norm": limited_norm,
}
DECOUPLED = ("identity", "trust_ratio")
ONE_DIMENSIONAL_EXCLUDED = ("trust_ratio", "rotation", "limited_norm")
