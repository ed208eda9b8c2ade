"""A step makes one all-reduce a process group, whatever the number of layers."""

from __future__ import annotations

import pytest
from tests.distributed.counting import Count, count
from tests.distributed.layouts import LAYOUTS, Model
from tests.distributed.processes import Pool
from tests.distributed.training import Job
from tests.methods import METHODS

BLOCKS = 33  # 200 tensors and more
FEW = 4
STEPS = 3  # the first one makes the state
WITHOUT_SUMS = ("adam, identity", "adamax, identity")  # the rule reads nothing


def collectives(ranks: list[list[Count]]) -> list[int]:
    """Those of each step, which all ranks made and both counts found; they are all-reduces."""
    for counts in ranks:
        for found in counts:
            assert found.dispatched == sum(found.by_gloo.values())
            assert found.by_gloo.keys() <= {"gloo:all_reduce"}
    every = [[found.dispatched for found in counts] for counts in ranks]
    assert all(numbers == every[0] for numbers in every)
    return every[0]


def test_many_layers_are_many() -> None:
    assert len(list(Model(BLOCKS).parameters())) >= 200


@pytest.mark.parametrize(
    ("layout", "world"),
    [
        *(
            ("fsdp", 2),
            ("fsdp", 4),
            ("fsdp, last dimension", 2),
            ("fsdp, offload", 2),
            ("hsdp", 4),
            ("partly", 2),
            ("fsdp, many meshes", 2),
        ),
        *(("tp", 2), ("fsdp x tp", 4), ("hsdp x tp", 4), ("two meshes", 4), ("ddp", 2), ("replicated", 2)),
    ],
)
def test_one_a_process_group(pool: Pool, layout: str, world: int) -> None:
    job = Job(layout, "LAMB", steps=STEPS, blocks=BLOCKS if (layout, world) == ("fsdp", 2) else FEW)
    assert collectives(pool.run(count, world, job=job)) == [LAYOUTS[layout].groups] * STEPS


@pytest.mark.parametrize("method", METHODS)
def test_every_method(pool: Pool, method: str) -> None:
    expected = 0 if method in WITHOUT_SUMS else 1
    assert collectives(pool.run(count, 2, job=Job("fsdp", method, steps=STEPS))) == [expected] * STEPS


@pytest.mark.parametrize(
    "options", [{"max_grad_norm": 1.0}, {"nonfinite": "skip"}, {"segments": {"*qkv*": 3}}], ids=str
)
def test_an_option_costs_the_same_for_more_layers(pool: Pool, options: dict[str, object]) -> None:
    few, many = (
        collectives(pool.run(count, 2, job=Job("fsdp", "LAMB", options, steps=STEPS, blocks=blocks)))
        for blocks in (1, FEW)
    )
    assert few == many and max(many) <= 2 and ("segments" not in options or max(many) == 1)


@pytest.mark.parametrize(
    ("layout", "world", "method", "blocks"),
    [
        *(("fsdp", 2, method, 1) for method in ("LAMB", "LARS", "adam, identity", "wrapped Adam")),
        *(("fsdp", 2, "LAMB", FEW), ("fsdp x tp", 4, "LAMB", 1)),
    ],
)
def test_a_monitor_costs_one_more_where_it_records(
    pool: Pool, layout: str, world: int, method: str, blocks: int
) -> None:
    groups = LAYOUTS[layout].groups
    quiet = 0 if method in WITHOUT_SUMS else groups
    recorded = quiet + groups
    job = Job(layout, method, steps=5, blocks=blocks)
    found = collectives(pool.run(count, world, job=job, watched=True))
    assert found == [recorded, recorded, quiet, recorded, quiet], "of two steps one is recorded, and the first"
