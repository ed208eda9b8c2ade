"""Where the shard of this process begins, and what it holds, for placements of every kind."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from layerpace.engine.sharding import shards
from layerpace.layers.base import ParameterLayers

PLACEMENTS = (
    (Shard(0), Shard(0)),
    (Shard(0), Shard(1)),
    (Shard(1), Shard(0)),
    (Shard(1), Shard(1)),
    (Replicate(), Shard(0)),
    (Shard(0), Replicate()),
    (Replicate(), Replicate()),
)
SHAPES = ((7, 5), (3, 4), (9, 2), (2, 3), (5, 1))


def wrong() -> list[str]:
    """The placements whose shard is not the part of the whole tensor that layerpace takes it for."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2))
    found = []
    for shape in SHAPES:
        whole = torch.arange(shape[0] * shape[1], dtype=torch.float64).reshape(shape)
        for placements in PLACEMENTS:
            held = shards.Shard(distribute_tensor(whole, mesh, placements), ParameterLayers("w"))
            if not torch.equal(held.shard(whole), held.tensor):
                found.append(f"{shape} {placements}: {held.place}, {held.tensor.tolist()}")
    return found
