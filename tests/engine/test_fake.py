"""Trainings on FakeTensors, which have shapes and no values: torch estimates memory by them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods import METHODS, NAMES, SHAPES, assert_same
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.optim import AdamW, Optimizer

import layerpace as lp

OPTIONS: list[dict[str, Any]] = [
    {"nonfinite": "skip"},
    {"nonfinite": "raise"},
    {"max_grad_norm": 1.0},
    {"state_dtype": "bf16"},
    {"segments": {"first.weight": 2}},
    {"capturable": True},
    {"backend": "reference"},
]


def parameters(dtype: torch.dtype = torch.float32) -> list[tuple[str, Tensor]]:
    return [(n, torch.ones(shape, dtype=dtype).requires_grad_()) for n, shape in zip(NAMES, SHAPES, strict=True)]


def train(optimizer: Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()


def test_steps_of_every_method() -> None:
    for make in METHODS.values():
        with FakeTensorMode():
            optimizer = make(parameters()[:2])
            train(optimizer)
            optimizer.load_state_dict(optimizer.state_dict())
            assert all(type(p) is not Tensor for p in optimizer.state)


def test_steps_with_every_option() -> None:
    for options in OPTIONS:
        with FakeTensorMode():
            train(lp.LAMB(parameters()[:2], **options))
    with FakeTensorMode():
        train(lp.LAMB(parameters(torch.bfloat16), lr=torch.tensor(0.1)))
        train(lp.wrap(AdamW(parameters(), lr=torch.tensor(0.1)), "rotation"))


def test_nothing_of_one_mode_is_left_to_another_or_to_real_steps() -> None:
    """What steps keep for those after them, such as the rows of segments: real ones first, then fake, then real."""
    found = []
    for fake in (False, True, True, False):
        with FakeTensorMode() if fake else contextlib.nullcontext():
            optimizer = lp.LAMB(parameters(), segments={"conv.weight": [1, 1], "first.bias": "rows"})
            train(optimizer)
        found.append([p.detach() for p in optimizer.state])
    assert_same(found[0], found[3])


@pytest.mark.parametrize("kind", ["ours", "wrapped", "torch"])
def test_a_monitor_has_nothing_to_record(kind: str, tmp_path: Path) -> None:
    with FakeTensorMode():
        model = torch.nn.Linear(4, 2)
        optimizer: Optimizer = lp.LAMB(model.parameters()) if kind == "ours" else AdamW(model.parameters())
        if kind == "wrapped":
            optimizer = lp.wrap(optimizer, "rotation")
        with lp.Monitor(model, optimizer, every=1, out=tmp_path / "run") as monitor:
            train(optimizer)
        assert monitor.latest() == {}
        assert monitor.step == 2


def test_the_memory_of_a_training_is_estimated() -> None:
    """LAMB's state is that of AdamW, and its step takes no more at its peak than the weights once more."""
    peaks = []
    for make in (AdamW, lp.LAMB):
        with FakeTensorMode():
            model = torch.nn.Linear(64, 64)
            optimizer = make(model.parameters())
            tracker = MemTracker()
            tracker.track_external(model, optimizer)
            with tracker:
                model(torch.ones(8, 64)).sum().backward()
                optimizer.step()
        peaks.append(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])
    weights = 4 * 64 * 65
    assert peaks[0] <= peaks[1] <= peaks[0] + 4 * weights
