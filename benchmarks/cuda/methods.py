"""What `python -m benchmarks.gpu` measures: the parameter sets, the methods, and the least that each must move.

A GPU has one L2 cache for all of its cores, and what the second pass of a layer reads again is free where it still lies
there. So the least traffic of a method on a GPU is `Traffic.hit` for a layer of which L2 holds all that the first pass
has read, and `Traffic.miss` for a larger one: LAMB reads 16 bytes an entry, then 12 of them again, and writes 12.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

import layerpace as lp

from .. import traffic
from ..methods import BY_NAME, DECAY, LR, UNIT, Method
from ..shapes import SETS, ParameterSet, Shapes
from ..traffic import Traffic


def gpt_1b3() -> Shapes:
    """The 292 tensors of a GPT of 24 blocks of width 2048, 1.3B entries; the output shares the embedding's weight."""
    width, block = 2048, Shapes()
    for rows, columns in ((3, 1), (1, 1), (4, 1), (1, 4)):  # attention in and out, MLP in and out
        block += [(rows * width, columns * width), (rows * width,)]
        block += [(width,), (width,)] if columns == 1 and rows > 1 else []  # the norm before it
    return [(50257, width), (2048, width), *block * 24, (width,), (width,)]


LARGE = "1.3B"
SMALL = "S1"
# In the order in which they are measured: those that goals name come first.
GPU_SETS: dict[str, ParameterSet] = {
    "S1": SETS["S1"],
    LARGE: ParameterSet("GPT, 24 x 2048", gpt_1b3()),
    "S4": SETS["S4"],
    "S2": SETS["S2"],
}
QUICK_SETS = ("S1", "S4")
DRY_SETS: dict[str, ParameterSet] = {
    SMALL: ParameterSet("one tensor", [(5, 3)]),
    LARGE: ParameterSet("a larger one", [(9, 5)]),
}


def ours(backend: str = "triton", device: torch.device | None = None, boost: float = 1.0) -> list[Method]:
    """layerpace's methods.

    Args:
        backend: where they run.
        device: where learning rates lie, as tensors, of optimizers whose step a CUDA graph can hold; None: plain ones.
        boost: factor on the learning rates, which move the weights very little without it.
    """

    def lr(value: float) -> float | Tensor:
        return boost * value if device is None else torch.tensor(boost * value, device=device)

    common: dict[str, Any] = {"backend": backend, "capturable": device is not None}
    decayed = common | {"weight_decay": DECAY}
    return [
        Method("LAMB", lambda p: lp.LAMB(p, lr=lr(LR), **decayed), traffic.LAMB, 8),
        Method("LAMBC", lambda p: lp.LAMBC(p, lr=lr(LR), **decayed), traffic.LAMB, 8),
        Method("LARS", lambda p: lp.LARS(p, lr=lr(1e3 * LR), **decayed), traffic.VELOCITY, 4),
        Method("PercentDelta", lambda p: lp.PercentDelta(p, lr=lr(LR), **common), traffic.VELOCITY, 4),
        Method("Layca", lambda p: lp.Layca(p, lr=lr(LR), **common), traffic.ROTATION, 0),
        Method(
            "Adam", lambda p: lp.Layerwise(p, direction="adam", rule="identity", lr=lr(LR), **common), traffic.ADAM, 8
        ),
        Method(
            "SGD momentum",
            lambda p: lp.Layerwise(p, direction="heavy_ball", rule="identity", lr=lr(LR), **common),
            traffic.SGD_MOMENTUM,
            4,
        ),
        Method("LAMB bf16 state", lambda p: lp.LAMB(p, lr=lr(LR), state_dtype="bf16", **decayed), traffic.LAMB_BF16, 4),
    ]


OURS = tuple(method.name for method in ours())
OTHERS = (
    UNIT, "torch SGD fused", "torch Adam foreach", "torch SGD foreach",
    "timm Lamb", "timm Lars", "pytorch_optimizer Lamb", "pytorch_optimizer LARS",
)  # fmt: skip


def eager() -> list[Method]:
    """What is stepped by Python calls; ours before the slow ones, in case that time runs out."""
    return [BY_NAME[UNIT], *ours(), *(BY_NAME[name] for name in OTHERS[1:])]


def captured(device: torch.device) -> list[Method]:
    """What is stepped by the replay of a CUDA graph."""

    def adam(p: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(p, lr=torch.tensor(LR, device=device), fused=True, capturable=True)

    return [Method(UNIT, adam, traffic.ADAM, 8), *ours(device=device), BY_NAME["torch SGD fused"]]


# Bytes an entry that the first of two passes reads.
FIRST_PASS = {traffic.LAMB: 16, traffic.LAMB_BF16: 12, traffic.VELOCITY: 8, traffic.ROTATION: 8}


def least_bytes(least: Traffic, sizes: Iterable[int], l2: int) -> float:
    """Mean bytes an entry over layers of these sizes, on a device with ``l2`` bytes of L2."""
    counts, first = list(sizes), FIRST_PASS.get(least, 0)
    return sum(n * (least.hit if n * first <= l2 else least.miss) for n in counts) / sum(counts)
