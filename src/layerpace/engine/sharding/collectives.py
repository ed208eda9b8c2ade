"""Sharded parameters: what of them this process holds, and the one all-reduce that adds up the sums over a layer.

    local shards --accumulate--> local rows --all-reduce--> table of all layers --rule--> c, b --apply--> local shards

A step works on local shards, as plain tensors, through any backend. Every column of the table is a sum, so that a
single all-reduce over each process group that shards something makes it the table of the whole model, however many
layers there are; from it every process computes the same coefficients of all layers, also of those that it holds
nothing of. Where nothing is sharded there is no communication.

A parameter is sharded if it is a `torch.distributed.tensor.DTensor` with a shard placement over more than one
process: FSDP2's ``fully_shard``, tensor parallelism, and both at once, whose `_StridedShard` says that the other
dimension of the mesh was cut first. Moments are DTensors like their parameter; what a layer has one number of (step
counts, a rule's memory) is whole on every process, so that `torch.distributed.checkpoint` saves all of it, and loads
it for any number of processes. ``torch.distributed`` is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PLAIN = (Tensor, torch.nn.Parameter)


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, sharded or not."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "placements")


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor: of a DTensor its shard, the same object each time; of another all of it."""
    if not is_distributed(tensor):
        return tensor  # type: ignore[no-any-return]
    held = tensor._local_tensor  # to_local() makes a view each time, and takes as long as a small layer's step
    return held if type(held) in _PLAIN else held.wait()  # type: ignore[no-any-return]  # a collective under way


def check_placements(param: Tensor, where: str) -> None:
    """Raise RuntimeError for parameters whose layers are not known, or not yet added up.

    Args:
        param: of an optimizer.
        where: what to call it.
    """
    if getattr(param, "_fsdp_flattened", False):
        raise RuntimeError(
            f"{where} is a flat parameter of FullyShardedDataParallel (FSDP1), which has no layers left: "
            "shard the model with torch.distributed.fsdp.fully_shard (FSDP2) instead"
        )
    for placement in getattr(param, "placements", ()):
        if placement.is_partial():
            raise RuntimeError(
                f"{where} is a DTensor with the placement {placement}: its values are not added up yet. "
                "Redistribute it to Shard or Replicate before the optimizer gets it"
            )


class TableReduce:
    """The rows of all layers, of which a process fills in its own: adds them up over the processes.

    Args:
        rows: number of layers.
        of_local: int64 [local rows]: the layer of each row that this process has.
        groups: of each layer, the process groups that hold parts of it.
        device: of the tables.
    """

    def __init__(
        self, rows: int, of_local: Sequence[int], groups: Sequence[Sequence[ProcessGroup]], device: torch.device
    ) -> None:
        from torch import distributed

        self.rows = rows
        self.of_local = torch.tensor(of_local, dtype=torch.int64, device="cpu").to(device)
        members: dict[tuple[int, ...], tuple[ProcessGroup, list[int]]] = {}
        for row, these in enumerate(groups):
            for group in these:
                ranks = tuple(distributed.get_process_group_ranks(group))  # two meshes may have a group each
                members.setdefault(ranks, (group, []))[1].append(row)
        self._groups: list[tuple[ProcessGroup, Tensor | None]] = [
            (group, None if len(of) == rows else torch.tensor(of, device="cpu").to(device))
            for group, of in members.values()
        ]

    def add(self, local_LC: Tensor) -> Tensor:
        """Sums of this process -> sums of all: float64 [local rows, columns] -> [rows, columns].

        One all-reduce for each process group, none without columns; every process must call it.
        """
        table = torch.zeros(self.rows, *local_LC.shape[1:], dtype=local_LC.dtype, device=local_LC.device)
        table.index_copy_(0, self.of_local, local_LC)
        for group, rows in self._groups if table.numel() else ():
            part = table if rows is None else table.index_select(0, rows)
            add_up(part, group)
            if rows is not None:
                table.index_copy_(0, rows, part)
        return table

    def any(self, flag: Tensor) -> Tensor:
        """float32 []: the largest value of a flag over the processes; an all-reduce for each process group."""
        flag = flag.clone()
        for group, _ in self._groups:
            add_up(flag, group, largest=True)
        return flag


def add_up(values: Tensor, group: Any, largest: bool = False) -> None:
    """Add up, or take the largest, in place; where the group has no way to a device's memory, through one it has."""
    from torch import distributed

    op = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    devices: Sequence[torch.device] = group._device_types
    if any(device.type == values.device.type for device in devices):
        distributed.all_reduce(values, op, group)
        return
    # Offloaded shards lie on the CPU, and NCCL reaches the GPU alone.
    there = values.to(devices[0].type)
    distributed.all_reduce(there, op, group)
    values.copy_(there)
