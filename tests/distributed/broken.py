"""Jobs that go wrong."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist


def ranks() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def fail() -> None:
    """Rank 1 fails, and rank 0 waits for it."""
    if dist.get_rank() == 1:
        raise ValueError("in rank 1")
    dist.all_reduce(torch.ones(1))


def die() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    """Rank 0 waits for a collective that rank 1 does not make."""
    if dist.get_rank() == 0:
        dist.all_reduce(torch.ones(1))
    time.sleep(60)


def sleep() -> None:
    time.sleep(60)
