"""Weights before and after each step, noted without any of the library's code, and what follows from them."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerpace as lp
from layerpace.monitors.history import History

OPTIMIZER_CLASSES: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "AdamW": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "LAMB": (lp.LAMB, {"lr": 1e-2, "weight_decay": 0.1}),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    name: functools.partial(kind, **settings) for name, (kind, settings) in OPTIMIZER_CLASSES.items()
}
Step = dict[str, tuple[Tensor, Tensor, Tensor]]  # weights before, weights after, gradient; float64


def noting(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Step]:
    """Notes all further steps of an optimizer in the list that it returns."""
    steps: list[Step] = []
    own_step = optimizer.step
    named = {param: name for name, param in model.named_parameters()}
    params = [param for group in optimizer.param_groups for param in group["params"]]

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        before = [param.detach().double().clone() for param in params]
        result = own_step() if closure is None else own_step(closure)
        steps.append(
            {
                named[param]: (old, param.detach().double().clone(), param.grad.detach().double().clone())
                for param, old in zip(params, before, strict=True)
                if param.grad is not None
            }
        )
        return result

    optimizer.step = types.MethodType(step, optimizer)  # type: ignore[method-assign]
    return steps


def quantities(w: Tensor, new: Tensor, grad: Tensor) -> dict[str, float]:
    """What a record must have for a layer; the angle by Kahan's formula."""
    d = w - new
    found = {
        "weight_norm": w.norm(),
        "grad_norm": grad.norm(),
        "update_norm": d.norm(),
        "relative_update_l1": d.abs().sum() / w.abs().sum(),
        "relative_update_l2": d.norm() / w.norm(),
    }
    if w.any() and new.any():
        a, b = w / w.norm(), new / new.norm()
        found["rotation_angle"] = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    return {name: float(value) for name, value in found.items()}


def check_records(history: History, steps: list[Step], at: list[int], initial: Mapping[str, Tensor]) -> None:
    """The records are those of the steps ``at``, and each number is what the notes give, to 1e-6."""
    assert history.steps == at
    for record, step in enumerate(at):
        for layer, (w, new, grad) in steps[step - 1].items():
            for name, value in quantities(w, new, grad).items():
                recorded = float(history[name][record, history.place(layer)])
                if math.isfinite(value):
                    assert recorded == pytest.approx(value, rel=1e-6, abs=1e-12), (step, layer, name)
    for layer, start in initial.items():
        read = history.series("cosine_distance", layer)
        assert bool(read[0]) == bool(start.any()), layer  # a layer that starts at zero has no direction
        for step, told in zip(*read, strict=True):
            new, start = steps[step - 1][layer][1], start.double()
            distance = 1 - float((new * start).sum() / (new.norm() * start.norm()))
            assert told == pytest.approx(distance, rel=1e-6, abs=1e-9), (step, layer)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's weights by name."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def record_lines(folder: Path) -> list[str]:
    """The lines of a run's file that have layer records or scalars, torn ones too."""
    return [line for line in (folder / "records.jsonl").read_text().splitlines() if '"step"' in line]


def check_same(history: History, other: History) -> None:
    """Two trainings recorded the same: steps, layers and numbers."""
    assert history.steps == other.steps
    assert history.layers == other.layers
    assert set(history.quantities) == set(other.quantities)
    for name in history.quantities:
        torch.testing.assert_close(history[name], other[name], rtol=1e-6, atol=0, equal_nan=True)
