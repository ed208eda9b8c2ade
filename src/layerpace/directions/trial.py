"""Trying whether a direction is elementwise, as one must be that works on shards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layerpace.directions.base import Direction
from layerpace.engine.numerics.tensors import Tensors

MOST = 5  # entries of a dimension
STEPS = 2


def is_elementwise(direction: Direction, shape: Sequence[int]) -> bool:
    """Whether u of a part of a small tensor is that part of its u; True also where a trial cannot tell.

    Args:
        direction: whose state is of the weight's shape, or one number a layer.
        shape: of weights; no dimension of the trial is longer than these.
    """
    size = [min(MOST, n) for n in shape]
    cuts = [dim for dim, n in enumerate(size) if n > 1]
    if not cuts or 0 in size:
        size = [2 if dim == 0 else 1 for dim in range(max(1, len(size)))]
        cuts = [0]
    w, *gradients = (_numbers(size, float(k)) for k in range(1 + STEPS))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            whole, again = (_run(direction, w, gradients) for _ in range(2))
        except Exception:  # it needs more than a small tensor of float64 on the CPU: a step will tell
            return True
        if whole.shape[1:] != w.shape or not torch.equal(whole.nan_to_num(), again.nan_to_num()):
            return True  # an error in a step; or it draws random numbers
        for dim in cuts:
            sizes = [1, size[dim] - 1]
            pieces = zip(*(torch.split(x, sizes, dim) for x in (w, *gradients)), strict=True)
            try:
                parts = torch.cat([_run(direction, part, rest) for part, *rest in pieces], 1 + dim)
            except Exception:  # what it can do with the whole, it cannot do with a part
                return False
            if parts.shape != whole.shape or not torch.allclose(parts, whole, rtol=1e-9, atol=1e-12, equal_nan=True):
                return False
    return True


def _numbers(size: Sequence[int], k: float) -> Tensor:
    """Numbers of either sign and of different sizes."""
    n = torch.arange(torch.Size(size).numel(), dtype=torch.float64, device="cpu")
    return ((3 + k) * n + k + 0.5).sin().mul(1 + n % 3).reshape(torch.Size(size))


def _run(direction: Direction, w: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """u of each step, stacked."""
    w = w.clone()
    one = torch.ones((), dtype=torch.float64, device="cpu")
    state = {name: Tensors([x]) for name, x in direction.init(w, one).items()}
    found = []
    for t, g in enumerate(gradients, 1):
        u = direction(Tensors([g.clone()]), Tensors([w]), state, float(t))
        found.append(u.items[0].clone())
    return torch.stack(found)
