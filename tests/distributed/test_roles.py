"""A method per role, sharded: the numbers of one process, and one all-reduce whatever the mix."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tests.distributed.compare import error
from tests.distributed.gpt import ROLES, train
from tests.distributed.processes import Pool
from torch import Tensor

STEPS = 50


@functools.cache
def alone(*options: tuple[str, Any]) -> dict[str, Tensor]:
    return train("plain", STEPS, **dict(options))[0]


def test_roles_have_three_rules_and_two_directions_at_least() -> None:
    methods = [method for _, method in ROLES.values()]
    assert len(ROLES) == 6
    assert len({str(m["rule"]) for m in methods}) == 3 and len({m.get("direction") for m in methods}) >= 2


@pytest.mark.parametrize(
    "options", [(), (("nonfinite", "skip"), ("max_grad_norm", 1.0)), (("backend", "reference"),)], ids=str
)
@pytest.mark.parametrize(("layout", "world", "groups"), [("fsdp", 2, 1), ("fsdp", 4, 1), ("fsdp x tp", 4, 2)])
def test_a_tiny_gpt(pool: Pool, layout: str, world: int, groups: int, options: tuple[tuple[str, Any], ...]) -> None:
    expected = alone(*options)
    ranks = pool.run(train, world, layout=layout, steps=STEPS, **dict(options))
    for weights, counts in ranks:
        assert weights.keys() == expected.keys()
        for name, w in expected.items():
            assert error(weights[name], w) <= 1e-9, (name, error(weights[name], w))
        looks = 2 if options[:1] == (("nonfinite", "skip"),) else 0  # at the gradients, before the step
        assert all(set(found) <= {"all_reduce", "allreduce_"} for found in counts)
        assert {sum(found.values()) for found in counts} == {groups * (1 + looks)}
    torch.manual_seed(3)
    assert all(not torch.equal(w, torch.zeros_like(w)) for w in expected.values())
