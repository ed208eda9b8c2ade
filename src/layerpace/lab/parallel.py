"""Processes that train one model together, as torchrun starts them; a process alone is a team of one.

    with processes(device) as team:         # starts their communication, where there are several
        team.broadcast(make)                     # what rank 0 makes, or raises, everywhere
        team.summed(tensor), team.max(n)   # of all processes
        team.wrapped(model)                 # so that gradients are means over the processes

Every process calls the same in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import LabError, Stopped, UsageError, one_line
from .rendezvous import meet

T = TypeVar("T")
SHARDS = ("ddp", "fsdp")


def launched() -> bool:
    """Whether torchrun, or something like it, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_main() -> bool:
    """Whether this process is the one that prints: rank 0 of torchrun's, or one alone."""
    return not launched() or os.environ["RANK"] == "0"


def own_device(name: str) -> str:
    """The device of this process: under torchrun "cuda" is the one of its LOCAL_RANK."""
    if not launched() or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise UsageError(f"--device {name}: under torchrun each process has a GPU of its own: write --device cuda")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: of this process, 0 to size - 1; rank 0 writes and prints.
        size: number of processes.
        shard: "ddp": each has the whole model, and gradients are averaged; "fsdp": each keeps a part of every tensor.
        joined: whether they are a process group, if only of one; False: this process trains by itself.
    """

    rank: int = 0
    size: int = 1
    shard: str = "ddp"
    joined: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def regroups(self) -> bool:
        """Whether gradients are added up in another order after the first backward pass, which sorts DDP's buckets."""
        return self.shard == "ddp" and self.size > 2

    @property
    def replicated(self) -> bool:
        """Whether each process has the whole model, in a process group."""
        return self.shard == "ddp" and self.joined

    @property
    def sharded(self) -> bool:
        """Whether parameters are DTensors."""
        return self.shard == "fsdp" and self.joined

    def restarted(self) -> bool:
        """Whether torchrun has started the processes again, after one was lost; on one machine or another."""
        count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if launched() else "0"
        return self.max(int(count)) > 0

    def broadcast(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on rank 0, which alone calls it; a LabError or OSError of its is raised everywhere."""
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.first:
            try:
                outcome[0] = make()
            except (LabError, OSError) as error:
                failure = error
                outcome[1] = type(error) if isinstance(error, LabError) else LabError, str(error)
        dist.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            kind, message = outcome[1]
            raise kind(message)
        return outcome[0]  # type: ignore[no-any-return]

    def in_turn(self, make: Callable[[], T]) -> T:
        """What ``make`` returns, made by one process of each machine before the others: it may download what they read.

        An error of one process is raised in all.
        """
        if self.size == 1:
            return make()
        mine = os.environ.get("LOCAL_RANK", "0") != "0"
        made: list[T] = []
        for turn in (False, True):
            said: str | None = None
            kind: type[LabError] = LabError
            if turn == mine:
                try:
                    made.append(make())
                except (LabError, OSError) as error:
                    said, kind = str(error), type(error) if isinstance(error, LabError) else LabError
            heard: list[Any] = [None] * self.size
            dist.all_gather_object(heard, None if said is None else (kind, said))
            for failure in heard:
                if failure is not None:
                    raise failure[0](failure[1])
        return made[0]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over processes of a tensor, which is changed; any shape, on any device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, number: int) -> int:
        """The largest of the processes' numbers. Waits for the other processes, and for no device."""
        if self.size == 1:
            return number
        found = torch.tensor(number, device="cpu")
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def wrapped(self, model: nn.Module, unused: bool = False) -> nn.Module:
        """What to call in training. With "fsdp" the model's own parameters become DTensors, so before an optimizer.

        ``unused``: a trainable parameter takes no part in a step.
        """
        if not self.joined:
            return model
        device = next(model.parameters()).device
        if self.shard == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.type, (self.size,))
            try:
                for child in model.children():
                    if any(True for _ in child.parameters()):
                        fully_shard(child, mesh=mesh)
                fully_shard(model, mesh=mesh)
            except (ValueError, NotImplementedError) as error:  # such as parameters without a dimension
                raise UsageError(f"--shard fsdp: not with this model: {one_line(error)}") from None
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=unused
        )

    def syncing(self, wrapped: nn.Module, on: bool) -> AbstractContextManager[Any]:
        """Forward and backward passes within average their gradients over the processes, or just add them up here."""
        if not self.joined:
            return nullcontext()
        if self.shard == "fsdp":
            wrapped.set_requires_gradient_sync(on)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if on else wrapped.no_sync()  # type: ignore[operator]

    def align(self, model: nn.Module) -> None:
        """Give all processes the buffers of rank 0: those of batch normalisation differ after a step."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def processes(device: str, shard: str = "ddp") -> Iterator[Team]:
    """The team of this process; where torchrun started it, communication starts here and ends with the block.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl, and gloo for what is on the CPU).
        shard: "ddp" or "fsdp".

    Raises:
        UsageError: an unknown ``shard``, "fsdp" without torchrun, or more processes than GPUs.
        LabError: a process was lost.
    """
    if shard not in SHARDS:
        raise UsageError(f"--shard {shard}: choose from {', '.join(SHARDS)}")
    if not launched():
        if shard == "fsdp":
            raise UsageError(
                "--shard fsdp: start the processes with torchrun --nproc-per-node N --no-python layerpace ..."
            )
        yield Team()
        return
    backend = "gloo"
    if device.startswith("cuda") and torch.cuda.is_available():
        own = torch.device(own_device(device))
        if own.index >= torch.cuda.device_count():
            raise UsageError(
                f"--device {device}: process {own.index} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}: start no more processes"
            )
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=meet(store, rank, size), rank=rank, world_size=size)
    try:
        yield Team(rank, size, shard, joined=True)
    except (LabError, OSError, Stopped):
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # no goodbye: it would wait for who is gone
            raise LabError(f"process {rank} has lost contact with another one: {one_line(error)}") from error
        raise
    else:
        dist.destroy_process_group()
