from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layerpace.lab import Dataset, Task
from layerpace.lab.compare_plan import Cell, Plan


class Silent:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, int]] = []
        self.reused: list[bool] = []

    def begin(self, plan: Plan) -> None:
        self.plan = plan

    def point(self, cell: Cell, step: int, score: float) -> None:
        self.points.append((cell.method.name, cell.seed, step))

    def end(self, cell: Cell, result: dict[str, Any], reused: bool) -> None:
        self.reused.append(reused)


@pytest.fixture
def silent() -> Silent:
    return Silent()


def tiny_data(examples: int = 96) -> Dataset:
    """uint8 images of two classes: the second has a brighter upper half."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (examples,), generator=generator)
    inputs = torch.randint(0, 150, (examples, 1, 4, 4), generator=generator)
    inputs[:, :, :2] += 100 * targets.view(-1, 1, 1, 1)
    inputs, cut = inputs.to(torch.uint8), examples * 2 // 3
    return Dataset(inputs[:cut], targets[:cut], inputs[cut:], targets[cut:], classes=2, std=255.0)


def tiny_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )


@pytest.fixture
def task() -> Task:
    return Task(
        name="tiny", data=tiny_data(), model=tiny_model, batch_size=16, steps=12, eval_every=4, target=0.6, threads=1
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default run folders, and the cache, land in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
