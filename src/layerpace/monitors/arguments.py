"""What a monitor is given: optimizers, numbers, distances of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

ROTATION_EVERY = 50, 200  # at least, early in a training and later


def unwrapped(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """The torch optimizers themselves."""
    given = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    out: list[Optimizer] = []
    for one in given:
        inner: Any = one
        while isinstance(getattr(inner, "optimizer", None), Optimizer) and not isinstance(inner, LRScheduler):
            inner = inner.optimizer
        if not isinstance(inner, Optimizer):
            raise TypeError(f"Monitor needs torch optimizers, got {type(inner).__name__}")
        if inner not in out:
            out.append(inner)
    if not out:
        raise ValueError("Monitor needs an optimizer, got an empty sequence")
    return out


def number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def check_count(name: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def rotation_spacing(rotation_every: int | None, every: int) -> tuple[int, int]:
    """Steps between readings of the rotation curve, early and later."""
    if rotation_every is None:
        early, later = (every * -(-least // every) for least in ROTATION_EVERY)
        return early, later
    check_count("rotation_every", rotation_every, 1)
    if rotation_every % every:
        raise ValueError(f"rotation_every must be a multiple of every={every}, got {rotation_every}")
    return rotation_every, rotation_every
