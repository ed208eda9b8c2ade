"""What is measured: layerpace's optimizers, torch's, and those of other libraries, each as one entry of a list.

A new entry is measured in every set from then on. Learning rates are tiny, so that all methods can step one shared set
of weights hundreds of times and none of them leaves the range that training has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

import layerpace as lp

from . import peers, traffic
from .traffic import Traffic

LR = 1e-6  # a share of the weights, or a step of Adam; the weights' RMS is 0.05
DECAY = 0.01
UNIT = "torch Adam fused"

Make = Callable[[list[Parameter]], Optimizer]


@dataclass(frozen=True)
class Method:
    """An optimizer to measure.

    ``state`` and ``scratch`` are bytes an entry that it keeps, and that it takes for the time of a step: they decide
    which methods fit into memory together. ``sets`` names the only parameter sets that it runs on. A method with
    ``writes_gradients`` changes p.grad, which is put back after each of its steps.
    """

    name: str
    make: Make
    traffic: Traffic
    state: int
    scratch: int = 0
    sets: tuple[str, ...] | None = None
    writes_gradients: bool = False


def _ours(backend: str) -> dict[str, tuple[Make, Traffic, int]]:
    """name -> (make, traffic, bytes of state an entry)."""
    common: dict[str, Any] = {"backend": backend}
    decayed = common | {"weight_decay": DECAY}
    return {
        "LAMB": (lambda p: lp.LAMB(p, lr=LR, **decayed), traffic.LAMB, 8),
        "LAMBC": (lambda p: lp.LAMBC(p, lr=LR, **decayed), traffic.LAMB, 8),
        "LARS": (lambda p: lp.LARS(p, lr=1e3 * LR, **decayed), traffic.VELOCITY, 4),
        "PercentDelta": (lambda p: lp.PercentDelta(p, lr=LR, **common), traffic.VELOCITY, 4),
        "Layca": (lambda p: lp.Layca(p, lr=LR, **common), traffic.ROTATION, 0),
        "Adam": (lambda p: lp.Layerwise(p, direction="adam", rule="identity", lr=LR, **common), traffic.ADAM, 8),
        "SGD momentum": (
            lambda p: lp.Layerwise(p, direction="heavy_ball", rule="identity", lr=LR, **common),
            traffic.SGD_MOMENTUM,
            4,
        ),
        "LAMB bf16 state": (lambda p: lp.LAMB(p, lr=LR, state_dtype="bf16", **decayed), traffic.LAMB_BF16, 4),
    }


def _torch(variant: str, options: dict[str, Any], scratch: int) -> list[Method]:
    """torch.optim's Adam, AdamW and SGD in one of their implementations."""
    suffix = f" {variant}" if variant else ""
    return [
        Method(f"torch Adam{suffix}", lambda p: torch.optim.Adam(p, lr=LR, **options), traffic.ADAM, 8, scratch),
        Method(f"torch AdamW{suffix}", lambda p: torch.optim.AdamW(p, lr=LR, **options), traffic.ADAM, 8, scratch),
        Method(
            f"torch SGD{suffix}",
            lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, **options),
            traffic.SGD_MOMENTUM,
            4,
            scratch,
        ),
    ]


def _peers() -> list[Method]:
    """Like for like: no clip of the global gradient norm, and the ratio for every tensor where that is an option."""
    lamb: dict[str, Any] = {"lr": LR, "weight_decay": DECAY}
    lars: dict[str, Any] = {"lr": 1e3 * LR, "momentum": 0.9, "weight_decay": DECAY}
    return [
        Method(
            "timm Lamb",
            lambda p: peers.timm("lamb", "Lamb")(p, max_grad_norm=None, always_adapt=True, **lamb),
            traffic.LAMB,
            8,
            12,
        ),
        Method("timm Lars", lambda p: peers.timm("lars", "Lars")(p, always_adapt=True, **lars), traffic.VELOCITY, 4, 8),
        Method(
            "pytorch_optimizer Lamb",
            lambda p: peers.pytorch_optimizer("Lamb")(p, max_grad_norm=0.0, **lamb),
            traffic.LAMB,
            8,
            12,
        ),
        Method(
            "pytorch_optimizer LARS",
            lambda p: peers.pytorch_optimizer("LARS")(p, **lars),
            traffic.VELOCITY,
            4,
            8,
            writes_gradients=True,
        ),
    ]


OURS = [Method(name, make, least, state, scratch=8) for name, (make, least, state) in _ours("auto").items()]
REFERENCE = [
    Method(f"{name}, reference", make, least, state, scratch=16, sets=("S1", "S4"))
    for name, (make, least, state) in _ours("reference").items()
    if name in ("LAMB", "LARS", "PercentDelta", "Layca", "Adam")
]
TORCH = [
    *_torch("fused", {"fused": True}, scratch=0),
    *_torch("", {}, scratch=8),  # torch's choice: on the CPU a loop over the tensors
    *_torch("foreach", {"foreach": True}, scratch=8),  # its choice on a GPU
]
METHODS: list[Method] = [*TORCH, *OURS, *_peers(), *REFERENCE]
BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}
