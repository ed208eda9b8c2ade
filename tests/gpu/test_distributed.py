"""DDP and FSDP2 on one GPU, in a world of one process: training equals that of the model without them.

Each runs in a process of its own, which leaves no process group behind.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.fused.cases import reference_forbidden
from tests.gpu.common import DEVICE, MAIN, needs_gpu, prints_done
from torch import Tensor, nn

pytestmark = [
    *needs_gpu,
    pytest.mark.skipif(not (dist.is_available() and dist.is_nccl_available()), reason="torch has no NCCL here"),
]

STEPS = 4


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(48, 48) for _ in range(3))
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 7)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        out: Tensor = self.head(self.norm(x))
        return out


def ddp(model: Network) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, device_ids=[0] if DEVICE == "cuda" else None)


def ddp_views(model: Network) -> nn.Module:
    ids = [0] if DEVICE == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def fsdp(model: Network) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(DEVICE, (1,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


WRAPS: dict[str, Callable[[Network], nn.Module]] = {"ddp": ddp, "ddp_views": ddp_views, "fsdp": fsdp}


def trained(name: str, wrap: Callable[[Network], nn.Module] | None, options: dict[str, Any]) -> dict[str, Tensor]:
    """The weights after some steps."""
    model = Network().to(DEVICE)
    outer = model if wrap is None else wrap(model)
    method, lr = MAIN[name]
    optimizer = method(model.named_parameters(), lr=lr, backend="triton", **options)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 48, generator=generator).to(DEVICE)
        optimizer.zero_grad(set_to_none=True)
        (outer(x) - x[:, :7]).square().mean().backward()
        optimizer.step()
    return {key: _whole(p.detach()).cpu() for key, p in model.named_parameters()}


def _whole(p: Any) -> Tensor:
    whole: Tensor = p.full_tensor() if hasattr(p, "full_tensor") else p
    return whole


GUARDED = {"nonfinite": "skip", "max_grad_norm": 1.0, "capturable": True}


def compare(wrap: str) -> None:
    """In a process of its own: train all methods both ways."""
    if DEVICE == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    try:
        for name, options in [(name, {}) for name in MAIN] + [("LAMB", GUARDED)]:
            with reference_forbidden():
                plain, found = trained(name, None, options), trained(name, WRAPS[wrap], options)
            start = dict(Network().named_parameters())
            assert found.keys() == plain.keys() == start.keys()
            for key, w in plain.items():
                what = f"{name}, {key}"
                assert not torch.equal(w, start[key]), f"{what} did not move"
                torch.testing.assert_close(found[key], w, rtol=1e-5, atol=1e-6, msg=lambda m, at=what: f"{at}: {m}")
    finally:
        dist.destroy_process_group()
    print("done")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("wrap", WRAPS)
def test_training_in_a_world_of_one(wrap: str) -> None:
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    prints_done(f"from tests.gpu.test_distributed import compare\ncompare({wrap!r})", 240, **world)
