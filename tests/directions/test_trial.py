"""The trial that tells whether a direction is elementwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerpace import directions
from layerpace.directions.trial import is_elementwise
from layerpace.engine.numerics.tensors import Tensors


@dataclass(frozen=True)
class Made(directions.Direction):
    make: Callable[[Tensor], Tensor] = torch.sign

    def __call__(self, g: Any, w: Any, state: Any, t: Any) -> Any:
        return Tensors([self.make(x) for x in g])


def test_all_of_ours_are() -> None:
    for kind in directions.ALL:
        for shape in ((6, 7), (3,), (1, 9, 2), (), (0, 3)):
            assert is_elementwise(kind(), shape), (kind, shape)


def test_what_it_finds() -> None:
    parts_alike: dict[str, Callable[[Tensor], Tensor]] = {
        "sign": torch.sign,
        "random": lambda x: x * torch.rand_like(x),  # cannot be told, and a step would be random too
        "needs more": lambda x: x.reshape(17, 3),  # a step will say so
    }
    whole_only: dict[str, Callable[[Tensor], Tensor]] = {
        "norm": lambda x: x / x.norm(),
        "mean": lambda x: x - x.mean(),
        "largest": lambda x: x / x.abs().max(),
        "orthogonal": lambda x: torch.linalg.qr(x)[0],
        "rows": lambda x: x / x.norm(dim=1, keepdim=True),
        "columns": lambda x: x / x.norm(dim=0, keepdim=True),
        "sorted": lambda x: x.flatten().sort()[0].reshape(x.shape),
    }
    random = torch.get_rng_state()
    assert all(is_elementwise(Made(make), (8, 5)) for make in parts_alike.values())
    for name, make in whole_only.items():
        assert not is_elementwise(Made(make), (8, 5)), name
    assert torch.equal(torch.get_rng_state(), random)
