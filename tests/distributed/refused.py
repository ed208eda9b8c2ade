"""Parameters that a step cannot treat rightly, and the errors they get."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from tests.distributed.training import Job, Training
from tests.methods import METHODS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import layerpace as lp
from layerpace import directions
from layerpace.directions.base import State
from layerpace.engine.numerics.tensors import Scalar, Tensors


def partial() -> list[Tensor]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return [nn.Parameter(DTensor.from_local(torch.ones(3, 2), mesh, [Partial()]))]


def fsdp1(use_orig_params: bool) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(
            nn.Linear(3, 4), device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
        return list(model.parameters())


PARAMETERS: dict[str, Callable[[], list[Tensor]]] = {
    "partial": partial,
    "fsdp1": lambda: fsdp1(False),
    "fsdp1, original parameters": lambda: fsdp1(True),
}


def refused(parameters: str, method: str) -> str:
    """The RuntimeError that an optimizer of these parameters gives when it is made or steps; no weight has moved."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    good = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    params = [good, *PARAMETERS[parameters]()]
    for p in params:
        p.grad = torch.ones_like(p)
    before = [_local(p).clone() for p in params]
    try:
        METHODS[method](params).step()
    except RuntimeError as error:
        assert all(torch.equal(_local(p), old) for p, old in zip(params, before, strict=True))
        return str(error)
    return ""


def _local(p: Tensor) -> Tensor:
    return p.to_local().detach() if isinstance(p, DTensor) else p.detach()


def raises(job: Job) -> tuple[str, list[str]]:
    """The FloatingPointError of the first step, and the names of the parameters that it moved."""
    training = Training(job)
    before = [shard.clone() for shard in training.laid.shards]
    training.set_gradients(0)
    message = ""
    try:
        training.optimizer.step()
    except FloatingPointError as error:
        message = str(error)
    pairs = zip(training.laid.names, training.laid.shards, before, strict=True)
    return message, [name for name, shard, old in pairs if not torch.equal(shard, old)]


@dataclass(frozen=True)
class Elementwise(directions.Direction):
    """A user's that says nothing of itself, as one should be able to write it."""

    def state_names(self) -> tuple[str, ...]:
        return ("average",)

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        return state["average"].mul_(0.9).add_(g)


@dataclass(frozen=True)
class Normalised(directions.Direction):
    """Divides by a norm of the whole tensor."""

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        return Tensors([x / x.norm() for x in g])


@dataclass(frozen=True)
class SaysSo(Elementwise):
    elementwise: ClassVar[bool | None] = False


@dataclass(frozen=True)
class ByRow(directions.Direction):
    """Keeps one number a row, which is no shard of anything."""

    def state_names(self) -> tuple[str, ...]:
        return ("row",)

    def init(self, w: Tensor, one: Tensor) -> dict[str, Tensor]:
        return {"row": w.new_zeros(w.shape[:1])}

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        return g


@dataclass(frozen=True)
class Adapted(directions.Adam):
    """Inherits what Adam keeps, and not that it is elementwise."""

    def __call__(self, g: Tensors, w: Tensors, state: State, t: Scalar) -> Tensors:
        u = super().__call__(g, w, state, t)
        return Tensors([x - x.mean() for x in u])


DIRECTIONS: dict[str, directions.Direction] = {
    "elementwise": Elementwise(),
    "normalised": Normalised(),
    "says so": SaysSo(),
    "by row": ByRow(),
    "adapted": Adapted(),
}


def directions_on(placement: str) -> dict[str, str]:
    """The error of each direction's first step on a matrix that is cut, or on one that every process has all of."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    placements = {"rows": Shard(0), "columns": Shard(1), "whole": Replicate()}
    found = {}
    for name, direction in DIRECTIONS.items():
        p = nn.Parameter(distribute_tensor(torch.ones(5, 3), mesh, [placements[placement]]))
        p.grad = torch.ones_like(p)
        optimizer = lp.Layerwise([("w", p)], direction=direction, rule="trust_ratio", lr=0.1)
        found[name] = ""
        try:
            optimizer.step()
            other = lp.Layerwise([("w", p)], direction=direction, rule="trust_ratio", lr=0.1)
            other.load_state_dict(optimizer.state_dict())
            other.step()
        except RuntimeError as error:
            assert not optimizer.state and torch.equal(_local(p), torch.ones_like(_local(p)))
            found[name] = str(error)
    return found
