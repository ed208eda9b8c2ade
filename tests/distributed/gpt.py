"""A tiny GPT with tied embeddings, whose tensors play six roles, each with a method of its own, in one optimizer."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.layouts import whole
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import layerpace as lp

WORDS, WIDTH, HEADS, LENGTH, BATCH = 12, 8, 2, 6, 8

# Globs of names -> the method of a role: three rules, two directions.
ROLES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "embedding": (("words.weight",), {"direction": "adam", "rule": "identity", "lr": 0.01}),
    "positions": (("places",), {"direction": "adam", "rule": "identity", "lr": 0.003, "weight_decay": 0.1}),
    "attention": (
        ("*.q.weight", "*.k.weight", "*.v.weight", "*.out.weight"),
        {"rule": lp.rules.Rotation(), "lr": 0.05},
    ),
    "mlp": (("*.up.weight", "*.down.weight"), {"direction": "adam", "rule": "trust_ratio", "clip": 2.0, "lr": 0.02}),
    "norms": (("*norm*.weight",), {"direction": "adam", "rule": "identity", "lr": 0.01}),
    "biases": (("*.bias",), {"direction": "heavy_ball", "rule": "identity", "lr": 0.01}),
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = [part(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for part in (self.q, self.k, self.v)]
        attended = scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        z: Tensor = x + self.down(torch.tanh(self.up(self.norm2(x))))
        return z


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def lay_out(layout: str) -> tuple[GPT, int, int]:
    """(the network, the number of this process's part of the batch, the number of parts)."""
    torch.manual_seed(3)
    net = GPT().double()
    if layout == "plain":
        return net, 0, 1
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    if layout == "fsdp x tp":
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
        cut = dict.fromkeys(("q", "k", "v", "up"), ColwiseParallel()) | dict.fromkeys(
            ("out", "down"), RowwiseParallel()
        )
        for block in net.blocks:
            parallelize_module(block, mesh["tp"], cut)
    for block in net.blocks:
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(net, mesh=mesh["dp"])
    return net, mesh.get_local_rank("dp"), mesh.size(0)


def groups(net: nn.Module) -> list[dict[str, Any]]:
    """A param group per role; every tensor has one."""
    named = list(net.named_parameters())
    found = []
    for role, (globs, method) in ROLES.items():
        members = [(name, p) for name, p in named if any(lp.layers.excluded(glob, name, p) for glob in globs)]
        assert members, role
        named = [(name, p) for name, p in named if name not in dict(members)]
        found.append({"params": members, **method})
    assert not named
    return found


def train(layout: str, steps: int, **options: Any) -> tuple[dict[str, Tensor], list[dict[str, int]]]:
    """Train on the same batches, however many processes share them.

    Returns:
        The whole weights by name, and the collectives of each step of the optimizer.
    """
    net, part, parts = lay_out(layout)
    optimizer = lp.Layerwise(groups(net), direction="sgd", rule="identity", lr=0.1, **options)
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(steps):
        tokens = torch.randint(0, WORDS, (BATCH, LENGTH), generator=generator)
        mine = tokens[part * BATCH // parts : (part + 1) * BATCH // parts]
        optimizer.zero_grad()
        cross_entropy(net(mine)[:, :-1].flatten(0, 1), mine[:, 1:].flatten()).backward()
        with CommDebugMode() as found:
            optimizer.step()
        counts.append({str(op).rpartition(".")[2]: number for op, number in found.get_comm_counts().items()})
    return {name: whole(p) for name, p in net.named_parameters()}, counts
