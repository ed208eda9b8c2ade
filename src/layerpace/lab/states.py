"""Checkpoints that do not depend on how many processes wrote them: whole tensors, on rank 0 alone.

    whole(state)                 DTensors become tensors; all processes take part
    handed_out(team, make)       what rank 0 makes, everywhere
    load_model(model, state)     takes the shards of this process from whole tensors, as layerpace's optimizers do

Not by `torch.distributed.checkpoint.state_dict`: it makes a step of the optimizer before it loads, which a monitor
would record, and its names for the state of an optimizer are not those of a process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..engine.sharding.shards import Shard
from ..layers import ParameterLayers
from .parallel import Team


def whole(value: Any) -> Any:
    """The same nested dicts and lists with DTensors gathered; all processes call it."""
    if isinstance(value, Tensor):
        return value.full_tensor() if hasattr(value, "full_tensor") else value
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


class _Place:
    """Stands for a tensor that follows."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.stride = tensor.shape, tensor.dtype, tensor.stride()


def handed_out(team: Team, make: Callable[[], Any]) -> Any:
    """The nested dicts and lists of CPU tensors and plain values that rank 0 makes, on all processes."""
    if team.size == 1:
        return make()
    tensors: list[Tensor] = []

    def taken(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return _Place(value)
        if isinstance(value, Mapping):
            return {key: taken(item) for key, item in value.items()}
        return type(value)(taken(item) for item in value) if isinstance(value, list | tuple) else value

    def received(value: Any) -> Any:
        if isinstance(value, _Place):
            if not team.first:
                tensors.append(torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device="cpu"))
            tensor = tensors[0] if team.first else tensors[-1]
            dist.broadcast(tensor, src=0)
            return tensors.pop(0) if team.first else tensor
        if isinstance(value, Mapping):
            return {key: received(item) for key, item in value.items()}
        return type(value)(received(item) for item in value) if isinstance(value, list | tuple) else value

    return received(team.broadcast(lambda: taken(make())))


def like(tensor: Tensor, param: Any) -> Tensor:
    """A whole tensor as a DTensor with the placements of a parameter, if that is one; without communication."""
    if not hasattr(param, "placements"):
        return tensor
    held = Shard(param, ParameterLayers("parameter"))
    return held.distribute(held.shard(tensor.to(param.device)).clone())


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict({name: like(tensor, own[name]) for name, tensor in state.items()})
