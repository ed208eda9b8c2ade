"""One small model, and a training of it without any trainer, for programs that another library runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BATCHES, BATCH = 4, 8  # an epoch


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def examples() -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * BATCH, 5, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.randint(0, 3, (len(x),), generator=generator))


def batches() -> Any:
    return torch.utils.data.DataLoader(examples(), batch_size=BATCH)


def loss(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def trained(
    make: Callable[[nn.Module], Any], epochs: int = 1, before_step: Callable[[nn.Module], Any] | None = None
) -> dict[str, Tensor]:
    """The weights of a training by hand."""
    net = model()
    optimizer = make(net)
    for batch in list(batches()) * epochs:
        optimizer.zero_grad()
        loss(net, batch).backward()
        if before_step is not None:
            before_step(net)
        optimizer.step()
    return weights(net)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in net.named_parameters()}


def same(net: nn.Module, expected: dict[str, Tensor], rtol: float = 1e-6, atol: float = 1e-7) -> None:
    """The model has these weights, to rounding."""
    for name, weight in weights(net).items():
        torch.testing.assert_close(weight, expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
