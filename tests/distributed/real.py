"""Trainings with a real loss: forward, backward, and gradients that torch reduces; float64, for the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.layouts import whole
from tests.methods import METHODS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

BATCH, SEQUENCE = 8, 4


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(torch.tanh(self.up(self.norm(x))))
        return y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.head(x)
        return y


def lay_out(layout: str) -> tuple[Net, nn.Module, int, int]:
    """(the network, what is called, the number of this process's part of the batch, the number of parts)."""
    torch.manual_seed(3)
    net = Net().double()
    if layout == "plain":
        return net, net, 0, 1
    rank, world = dist.get_rank(), dist.get_world_size()
    if layout == "ddp":
        return net, nn.parallel.DistributedDataParallel(net), rank, world
    if layout in ("fsdp", "hsdp"):
        sizes, names = ((world,), ("shard",)) if layout == "fsdp" else ((2, world // 2), ("copies", "shard"))
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        for layer in net.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net, net, rank, world
    replicas = world // 2
    grid = init_device_mesh("cpu", (replicas, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(net, grid["tp"], _sequence_plan() if layout.endswith("sequence") else _plan())
    if layout.startswith("fsdp x tp"):
        for layer in net.layers:
            fully_shard(layer, mesh=grid["dp"])
        fully_shard(net, mesh=grid["dp"])
    return net, net, grid.get_local_rank("dp"), replicas


def _plan() -> dict[str, ParallelStyle]:
    """Norms and head stay whole, as plain tensors."""
    return {"layers.*.up": ColwiseParallel(), "layers.*.down": RowwiseParallel()}


def _sequence_plan() -> dict[str, ParallelStyle]:
    """Between the linear layers the sequence is cut; a norm's gradient is then a sum that nobody has added up yet."""
    return {
        "layers.0": PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=True
        ),
        "layers.*.norm": SequenceParallel(use_local_output=True),
        "layers.*.up": ColwiseParallel(input_layouts=Shard(1)),
        "layers.*.down": RowwiseParallel(output_layouts=Shard(1)),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }


def train(
    layout: str, method: str, steps: int, options: Mapping[str, Any] | None = None, overflow: int | None = None
) -> dict[str, Tensor]:
    """Train on the same batches of 8 examples, however many processes share them.

    Args:
        layout: "plain", "ddp", "fsdp", "hsdp", "tp" or "fsdp x tp", the last two also with ", sequence".
        overflow: use a GradScaler, and let this step's loss overflow in the first part of the batch.

    Returns:
        The whole weights by name.
    """
    net, called, part, parts = lay_out(layout)
    optimizer = METHODS[method](list(net.named_parameters()), **(options or {}))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=overflow is not None)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        x = torch.randn(BATCH, SEQUENCE, 6, generator=generator, dtype=torch.float64)
        mine = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
        optimizer.zero_grad()
        loss = (called(x[mine]) - x[mine].roll(1, 2)[..., :3]).square().mean()
        if step == overflow and part == 0:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return {name: whole(p) for name, p in net.named_parameters()}
