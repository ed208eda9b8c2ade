"""Parameters that a step cannot treat rightly, and the errors they get."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from tests.distributed.training import Job, Training
from tests.methods import METHODS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor


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
