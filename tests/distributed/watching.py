"""Trainings that a monitor watches."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from tests.distributed.training import Job, Training

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
