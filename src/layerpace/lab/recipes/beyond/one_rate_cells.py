"""The cells of the recipe one-rate: one small problem each, of one width, depth or task; and the rates of each method.

A cell is a part of a request: what is trained, and for how long.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from ...data import Dataset
from ...models import MODELS
from ...tasks import Task
from ..recipe import Scale
from ..tasks import call, reference

HERE = "layerpace.recipes.beyond.one_rate_cells"
LAYERWISE = ("LARS", "LAMB", "LAMBC", "PercentDelta", "Layca")
# title: (method, highest and lowest rate that its grid begins with); SGD needs the widest one
METHODS = {
    "SGD": ("sgd", 0.3, 1e-4),
    "AdamW": ("adamw", 0.03, 4e-5),
    "LARS": ("lars", 30.0, 0.04),
    "LAMB": ("lamb", 0.1, 1e-4),
    "LAMBC": ("lambc", 0.1, 1e-4),
    "PercentDelta": ("percent-delta", 1.0, 1e-3),
    "Layca": ("layca", 0.3, 4e-4),
}
SMOKE_METHODS = ("SGD", "AdamW", "LAMB", "Layca")
BASE_DEPTH = 4
CLASSES = {"spirals": 3}  # of a task that has not ten
EXTRA = "digits-cnn"  # badly scaled on purpose, against SGD: shown, but in no claim


def rates(scale: Scale, method: str, lower: int = 0, higher: int = 0) -> list[float]:
    """Of a method's title: factors of 3, from low to high, with so many more on either side."""
    _, highest, lowest = METHODS[method]
    count = 2 if scale.name == "smoke" else 1 + math.floor(math.log(highest / lowest, 3))
    return [float(f"{highest / 3**place:.3g}") for place in reversed(range(-higher, count + lower))]


def cells(scale: Scale) -> dict[str, dict[str, Any]]:
    """{name: part of a request}: "width x0.25", ..., "depth 8", ..., "spirals", ...

    The base cell, the first, is the width x1, the depth 4 and the task MNIST-MLP at once.
    """
    small = scale.name == "smoke"
    data = "digits-as-mnist" if small else "mnist"
    width = scale.pick(8, 64, 256)
    size = scale.pick({"train": 200, "test": 50}, {"train": 3000, "test": 2000}, {})
    length = {"batch_size": scale.pick(32, 64, 128), "steps": scale.pick(6, 250, 2000)}

    def mlp(width: int, depth: int) -> dict[str, Any]:
        options = {"width": width, "depth": depth}
        return {"task": reference("images", data=data, model="mlp", **size, options=options), **length}

    found = {"base": mlp(width, BASE_DEPTH)}
    for factor in (2,) if small else (0.25, 0.5, 2, 4):
        found[f"width x{factor:g}"] = mlp(int(width * factor), BASE_DEPTH)
    for depth in (8,) if small else (8, 16, 32):
        found[f"depth {depth}"] = mlp(width, depth)
    found["spirals"] = {"task": f"{HERE}:{call('spirals', {})}", **length}
    digits = {EXTRA: {"task": reference("images", data="digits"), **length}}
    if small:
        return found | digits
    found["digits-mlp"] = {"task": reference("images", data="digits", model="mlp-784"), **length}
    return found | cnns(scale) | digits


def cnns(scale: Scale) -> dict[str, dict[str, Any]]:
    """Two CNNs, with fewer steps than the other cells have."""
    few = scale.pick({}, {"train": 3000, "test": 1000}, {})
    found = {}
    for data, model, steps in (("mnist", "percentdelta-cnn", 60), ("cifar10", "c10-cnn1-small", 80)):
        task = reference("images", data=data, model=model, **few)
        steps = 2000 if scale.name == "paper" else steps
        found[model] = {"task": task, "batch_size": 32, "steps": steps, "dtype": "bf16"}
    return found


def families(names: list[str]) -> dict[str, list[str]]:
    """{"width": ..., "depth": ..., "task": ...}: names of cells, in order; the base cell is one of each."""
    narrow = [name for name in names if name.startswith("width") and float(name.split("x")[1]) < 1]
    wide = [name for name in names if name.startswith("width") and name not in narrow]
    deep = [name for name in names if name.startswith("depth")]
    rest = [name for name in names if name not in (*narrow, *wide, *deep, "base")]
    return {"width": [*narrow, "base", *wide], "depth": ["base", *deep], "task": ["base", *rest]}


def spirals(arms: int = 3, points: int = 1500, noise: float = 0.15) -> Task:
    """Points in the plane on arms of a spiral, each arm a class, for an MLP of four layers of 64 units.

    Args:
        arms: classes.
        points: training examples; half as many again are for testing.
        noise: standard deviation of the angle, in radians.
    """
    generator = torch.Generator().manual_seed(0)
    count = points + points // 2
    arm = torch.arange(count, device="cpu") % arms
    radius = torch.rand(count, generator=generator, device="cpu").sqrt()
    angle = 2 * math.pi * (arm / arms + radius) + noise * torch.randn(count, generator=generator, device="cpu")
    inputs = 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    data = Dataset(inputs[:points], arm[:points], inputs[points:], arm[points:], classes=arms)
    return Task(name="spirals", data=data, model=partial(MODELS["mlp"], (2,), arms, width=64, depth=BASE_DEPTH))
