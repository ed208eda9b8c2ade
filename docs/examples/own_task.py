"""A task of your own for `layerpace compare`: data, model, loss and metric.

    layerpace compare --task docs/examples/own_task.py:spirals --methods adam lamb layca --steps 300

Trains a small network to tell three spiral arms apart. Nothing is downloaded: the points are made here.
"""

import math

import torch
from torch import Tensor, nn

from layerpace.lab import Dataset, Task

ARMS = 3


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` points in the plane, shape [count, 2], and the arm each lies on, shape [count]."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.arange(count) % ARMS
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 2 * math.pi * (radius + arm / ARMS) + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm


def network() -> nn.Module:
    """Called once a run, after the seed is set: every method starts from the same weights."""
    return nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, ARMS)
    )


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """The metric: a figure for each example, higher is better. The lab reports the mean."""
    return (outputs.argmax(dim=1) == targets).float()


def spirals() -> Task:
    train_inputs, train_targets = points(3000, seed=0)
    test_inputs, test_targets = points(1000, seed=1)
    return Task(
        name="spirals",
        data=Dataset(train_inputs, train_targets, test_inputs, test_targets, classes=ARMS),
        model=network,
        loss=nn.functional.cross_entropy,
        metric=correct,
        batch_size=100,
        steps=300,
        eval_every=15,
        schedule="linear",
        target=0.9,
        threads=1,
    )
