"""What the processes of a sharded training share: who they are, and what they tell the test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layerpace.monitors.history import History


@dataclass
class Seen:
    """What a callback's monitor has when the training is over."""

    path: Path | None
    step: int
    history: History
    scalars: set[str]
    initial: dict[str, Tensor]

    @classmethod
    def of(cls, monitor: Any) -> Seen | None:
        if monitor is None:
            return None
        return cls(
            monitor.path, monitor.step, monitor.history, set(monitor.run.scalars), monitor.state_dict()["initial"]
        )


def world() -> int:
    """The number of processes; of several each gets the names that a launcher gives it."""
    if not dist.is_initialized():
        return 1
    rank, size = str(dist.get_rank()), dist.get_world_size()
    # The group exists already: nothing listens at this address.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    return size
