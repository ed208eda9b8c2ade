"""Bytes that a step must move between memory and cores, and the rate at which this machine moves them.

The least traffic of a method, in bytes an entry, follows from what its passes touch (float32, 4 bytes a read or write
of an entry of p, g, m, v or the velocity):

====================  =====================================================  ====  ====
method                pass 1 | pass 2                                        miss   hit
====================  =====================================================  ====  ====
Adam                  read p g m v, write m v p                                28    28
SGD with momentum     read p g m, write m p                                    20    20
LAMB                  read p g m v, write m v | read p m v, write p            40    28
LAMB, bf16 moments    the same with 2 bytes for m and v                        28    20
LARS, PercentDelta    read p g | read p g velocity, write velocity p           28    20
Layca with SGD        read p g | read p g, write p                             20    12
====================  =====================================================  ====  ====

A rule needs its sums before the first weight may move: two passes. If a tensor's operands still lie in the cache at
the second (hit), its reads cost no traffic. Adam and SGD need no sums, and one pass.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Traffic:
    """Least traffic in bytes an entry: ``miss`` if pass 2 reads from memory, ``hit`` if from the cache."""

    miss: int
    hit: int

    def per_entry(self, sizes: Iterable[int], cache: int) -> float:
        """Mean bytes an entry over tensors of these sizes: a tensor is a hit if it fits into ``cache`` bytes."""
        counts = list(sizes)
        return sum(n * (self.hit if n * self.hit <= cache else self.miss) for n in counts) / sum(counts)


ADAM = Traffic(28, 28)
SGD_MOMENTUM = Traffic(20, 20)
LAMB = Traffic(40, 28)
LAMB_BF16 = Traffic(28, 20)
VELOCITY = Traffic(28, 20)
ROTATION = Traffic(20, 12)


def ceiling(gib: float, threads: int) -> dict[str, Any]:
    """What this machine's memory gives, GB/s (1e9 bytes): the best of a few loops over ``gib`` GiB.

    Returns:
        "read": one stream read; "update": four streams read, three of them written in place, as Adam does;
        "source": what measured it. Without layerpace's own loops, torch's kernels stand in, and the source says so.
    """
    try:
        measure = getattr(importlib.import_module("layerpace.engine.backends.cpu"), "bandwidth", None)
    except ImportError:
        measure = None
    if measure is not None:
        return {"source": "layerpace.engine.backends.cpu.bandwidth", **measure(gib=gib, threads=threads)}
    return {"source": "estimate: torch's fused Adam, and torch.sum", **_torch_estimate(gib)}


def _torch_estimate(gib: float) -> dict[str, float]:
    p = torch.nn.Parameter(torch.full((int(gib * 2**30 / 16),), 0.05))  # p, g, m, v: 16 bytes an entry
    p.grad = torch.full_like(p, 1e-3)
    optimizer = torch.optim.Adam([p], lr=1e-6, fused=True)
    data = p.detach()
    return {
        "read": 4 * p.numel() / 1e9 / _best(lambda: data.sum()),
        "update": ADAM.miss * p.numel() / 1e9 / _best(optimizer.step),
    }


def _best(work: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of ``repeats`` calls, after two to warm up."""
    seconds = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        work()
        if turn >= 2:
            seconds.append(time.perf_counter() - start)
    return min(seconds)
