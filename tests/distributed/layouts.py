"""A small model, and the ways to lay it out over processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 18)
        self.down = nn.Linear(18, 8)


class Model(nn.Module):
    """Layers that shards cut unevenly, that some ranks have nothing of, and a number that cannot be cut.

    It is never called: the tests give it its gradients.
    """

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])
        self.conv = nn.Conv2d(2, 5, 3)
        self.head = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.zeros(()))


def _plan(model: Model) -> dict[str, ParallelStyle]:
    styles: dict[str, ParallelStyle] = {"embedding": RowwiseParallel(), "head": ColwiseParallel()}
    for k in range(len(model.blocks)):
        styles[f"blocks.{k}.norm"] = SequenceParallel()
        styles[f"blocks.{k}.qkv"] = ColwiseParallel()
        styles[f"blocks.{k}.down"] = RowwiseParallel()
    return styles


def _mesh(*sizes: int) -> DeviceMesh:
    return init_device_mesh("cpu", sizes, mesh_dim_names=("a", "b", "c")[: len(sizes)])


def _fully_shard(model: Model, mesh: DeviceMesh, **options: object) -> None:
    """As one does it: block by block, then what is left; FSDP2 takes no 0-d parameter, which stays plain."""
    for block in model.blocks:
        if not isinstance(block, FSDPModule):
            fully_shard(block, mesh=mesh, **options)  # type: ignore[call-overload]
    fully_shard(model, mesh=mesh, ignored_params={model.scale}, **options)  # type: ignore[call-overload]


def _fsdp(model: Model) -> None:
    _fully_shard(model, _mesh(dist.get_world_size()))


def _fsdp_last_dimension(model: Model) -> None:
    world = dist.get_world_size()
    _fully_shard(  # which cuts no dimension but the first unevenly
        model, _mesh(world), shard_placement_fn=lambda p: Shard(0 if p.shape[-1] % world else p.ndim - 1)
    )


def _fsdp_offload(model: Model) -> None:
    _fully_shard(model, _mesh(dist.get_world_size()), offload_policy=CPUOffloadPolicy(pin_memory=False))


def _fsdp_meshes(model: Model) -> None:
    """Each block on a mesh object of its own: the process groups have the same members."""
    for block in model.blocks:
        fully_shard(block, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    _fsdp(model)


def _hsdp(model: Model) -> None:
    _fully_shard(model, _mesh(2, dist.get_world_size() // 2))


def _tp(model: Model) -> None:
    parallelize_module(model, _mesh(dist.get_world_size()), _plan(model))


def _fsdp_tp(model: Model) -> None:
    mesh = _mesh(2, dist.get_world_size() // 2)
    parallelize_module(model, mesh["b"], _plan(model))
    _fully_shard(model, mesh["a"])


def _hsdp_tp(model: Model) -> None:
    mesh = _mesh(1, 2, dist.get_world_size() // 2)
    parallelize_module(model, mesh["c"], _plan(model))
    _fully_shard(model, mesh["a", "b"])


def _two_meshes(model: Model) -> None:
    """One block is cut over one dimension of the mesh, the next over the other, the rest over neither."""
    mesh = _mesh(2, dist.get_world_size() // 2)
    for k, block in enumerate(model.blocks):
        fully_shard(block, mesh=mesh["ab"[k % 2]])


def _partly(model: Model) -> None:
    """One block is sharded, the rest is plain."""
    fully_shard(model.blocks[0], mesh=_mesh(dist.get_world_size()))


def _replicated(model: Model) -> None:
    distribute_module(model, _mesh(dist.get_world_size()))


def _ddp(model: Model) -> None:
    nn.parallel.DistributedDataParallel(model)


def _plain(model: Model) -> None:
    pass


@dataclass(frozen=True)
class Layout:
    """How to lay a model out; ``groups`` is the number of process groups over which parameters are cut."""

    shard: Callable[[Model], None]
    groups: int


LAYOUTS: dict[str, Layout] = {
    "plain": Layout(_plain, 0),
    "ddp": Layout(_ddp, 0),
    "replicated": Layout(_replicated, 0),
    "fsdp": Layout(_fsdp, 1),
    "fsdp, last dimension": Layout(_fsdp_last_dimension, 1),
    "fsdp, offload": Layout(_fsdp_offload, 1),
    "fsdp, many meshes": Layout(_fsdp_meshes, 1),
    "hsdp": Layout(_hsdp, 1),
    "partly": Layout(_partly, 1),
    "tp": Layout(_tp, 1),
    "fsdp x tp": Layout(_fsdp_tp, 2),
    "hsdp x tp": Layout(_hsdp_tp, 2),
    "two meshes": Layout(_two_meshes, 2),
}


@dataclass
class Laid:
    """A model that is laid out.

    Attributes:
        model: its parameters are zero.
        names: of the parameters.
        params: the parameters.
        shards: the memory of what this process has of each.
        places: where the entries of a shard stand in the whole tensor, int64 in the shape of the shard.
    """

    model: Model
    names: list[str]
    params: list[nn.Parameter]
    shards: list[Tensor]
    places: list[Tensor]


def lay_out(layout: str, dtype: torch.dtype = torch.float32, blocks: int = 2) -> Laid:
    """Make a model of so many blocks and lay it out; "plain" needs no process group."""
    model = Model(blocks).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    LAYOUTS[layout].shard(model)
    names, params = zip(*model.named_parameters(), strict=True)
    places = _places(layout, blocks, dist.get_world_size() if dist.is_initialized() else 1)
    return Laid(model, list(names), list(params), [local(p) for p in params], places)


@functools.cache
def _places(layout: str, blocks: int, world: int) -> list[Tensor]:
    """They are read off a model of numbered entries, not computed: who has what is torch's to say."""
    model = Model(blocks)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).reshape(p.shape))
    LAYOUTS[layout].shard(model)
    return [local(p).to(torch.int64) for p in model.parameters()]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in its own memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
