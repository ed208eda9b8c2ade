"""Forward, backward and step of a real loss, with torch reducing the gradients."""

from __future__ import annotations

import functools

import pytest
from tests.distributed.compare import error
from tests.distributed.processes import Pool
from tests.distributed.real import train
from torch import Tensor

STEPS = 8


@functools.cache
def alone(method: str, overflow: int | None = None) -> dict[str, Tensor]:
    return train("plain", method, STEPS, overflow=overflow)


def assert_same(ranks: list[dict[str, Tensor]], expected: dict[str, Tensor]) -> None:
    for weights in ranks:
        assert weights.keys() == expected.keys() and weights
        for name, w in expected.items():
            assert error(weights[name], w) <= 1e-9, (name, error(weights[name], w))


LAID = (
    *(("ddp", 2), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4)),
    *(("tp", 2), ("tp, sequence", 2), ("fsdp x tp", 4), ("fsdp x tp, sequence", 4)),
)


@pytest.mark.parametrize(
    ("layout", "world", "method"),
    [
        *((layout, world, method) for layout, world in LAID for method in ("LAMB", "Layca momentum")),
        *((layout, world, method) for layout, world in LAID[-3:] for method in ("PercentDelta", "wrapped Adam")),
    ],
)
def test_a_real_loss(pool: Pool, layout: str, world: int, method: str) -> None:
    assert_same(pool.run(train, world, layout=layout, method=method, steps=STEPS), alone(method))


@pytest.mark.parametrize(("layout", "world"), [("fsdp", 2), ("ddp", 2)])
def test_grad_scaler(pool: Pool, layout: str, world: int) -> None:
    """A part of the batch whose loss overflows costs all processes the step."""
    ranks = pool.run(train, world, layout=layout, method="LAMB", steps=STEPS, overflow=4)
    assert_same(ranks, alone("LAMB", 4))
    assert any(error(w, alone("LAMB")[name]) > 1e-4 for name, w in ranks[0].items())
