"""A monitor of a sharded model tells of whole layers, in one place."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.distributed.processes import Pool
from tests.distributed.training import CUT, Job
from tests.distributed.watching import Records, layers_after_validation, watch

STEPS = 7
JOBS = {
    "LAMB": Job("", "LAMB", CUT, dtype=torch.float64, steps=STEPS),
    "LARS": Job("", "LARS", steps=STEPS, dtype=torch.float64),
    "Layca momentum": Job("", "Layca momentum", {"backend": "reference"}, dtype=torch.float64, steps=STEPS),
    "wrapped Adam": Job("", "wrapped Adam", CUT, dtype=torch.float64, steps=STEPS),
    "torch Adam": Job("", "torch Adam", dtype=torch.float64, steps=STEPS),
    "zeros": Job("", "LAMB", dtype=torch.float64, steps=STEPS, zeros=("head.*",)),
    "nan": Job("", "LAMB", dtype=torch.float64, steps=STEPS, broken={3: ("head.weight", 20, float("nan"))}),
}


def assert_same_records(found: Records, expected: Records) -> None:
    assert found.keys() == expected.keys() and found
    for step, layers in expected.items():
        assert found[step].keys() == layers.keys()
        for layer, quantities in layers.items():
            got = found[step][layer]
            assert got.keys() == quantities.keys(), (step, layer)
            for name, value in quantities.items():
                assert math.isclose(got[name], value, rel_tol=1e-6, abs_tol=1e-12), (
                    step,
                    layer,
                    name,
                    got[name],
                    value,
                )


@pytest.mark.parametrize(
    ("layout", "world", "case"),
    [
        *(("fsdp", 4, case) for case in JOBS),
        *(("fsdp x tp", 4, case) for case in ("LAMB", "wrapped Adam", "torch Adam")),
        *(("tp", 2, "LARS"), ("hsdp", 4, "Layca momentum"), ("ddp", 2, "LAMB")),
    ],
)
def test_every_quantity_is_that_of_the_whole_layer(
    pool: Pool, tmp_path: Path, layout: str, world: int, case: str
) -> None:
    job = JOBS[case]
    expected = watch(replace(job, layout="plain"), second_moment="LAMB" in case)
    named = {name for layers in expected.values() for quantities in layers.values() for name in quantities}
    assert {"relative_update_l1", "rotation_angle", "cosine_distance", "weight_norm", "grad_norm"} <= named
    ranks = pool.run(watch, world, job=replace(job, layout=layout), out=str(tmp_path), second_moment="LAMB" in case)
    assert_same_records(ranks[0], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["0"], "one rank writes"
    assert any(tmp_path.joinpath("0").iterdir())


@pytest.mark.parametrize("made_after", [False, True])
def test_a_validation_adds_no_layers(pool: Pool, made_after: bool) -> None:
    """After a forward pass without backward FSDP2 leaves whole parameters in the place of the shards."""
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    for before, after in pool.run(layers_after_validation, 2, made_after=made_after):
        assert before == after == names
