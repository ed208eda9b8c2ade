"""Trainings that a monitor watches."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.training import Job, Training
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import layerpace as lp

Records = dict[int, dict[str, dict[str, float]]]


def watch(job: Job, out: str | None = None, every: int = 2, **options: Any) -> Records:
    """Train, and read the monitor after every step.

    Args:
        out: folder in which each rank would write into a folder of its own, named by its number.

    Returns:
        {step: {layer: {quantity: value}}}
    """
    training = Training(job)
    rank = dist.get_rank() if dist.is_initialized() else 0
    folder = None if out is None else f"{out}/{rank}"
    records: Records = {}
    with lp.Monitor(training.laid.model, training.optimizer, every=every, out=folder, **options) as monitor:
        for step in range(job.steps):
            training.step(step)
            records[step + 1] = monitor.latest()
    return records


def layers_after_validation(made_after: bool) -> tuple[list[str], list[str]]:
    """Names of the layers that a monitor knows before and after a forward pass without backward, and a step after it.

    Args:
        made_after: the monitor is made after such a pass, too.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = lp.LAMB(model.parameters(), lr=0.01)
    if made_after:
        with torch.no_grad():
            model(torch.ones(3, 6))
    with lp.Monitor(model, optimizer, every=1, out=None) as monitor:
        before = [layer.name for layer in monitor.run.layers]
        with torch.no_grad():
            model(torch.ones(3, 6))
        monitor.flush()
        model(torch.ones(3, 6)).sum().backward()
        optimizer.step()
        return before, list(monitor.latest()) and [layer.name for layer in monitor.run.layers]
