"""What a monitor is given: optimizers, numbers, distances of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from layerpace.engine.common.checks import check_whole

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


def rotation_spacing(rotation_every: int | None, every: int) -> tuple[int, int]:
    """Steps between readings of the rotation curve, early and later."""
    if rotation_every is None:
        early, later = (every * -(-least // every) for least in ROTATION_EVERY)
        return early, later
    rotation_every = check_whole("rotation_every", rotation_every, 1)
    if rotation_every % every:
        raise ValueError(f"rotation_every must be a multiple of every={every}, got {rotation_every}")
    return rotation_every, rotation_every
