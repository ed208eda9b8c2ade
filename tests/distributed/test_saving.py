"""torch.distributed.checkpoint: a training goes on as if nothing had happened, on another number of processes too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed import saving
from tests.distributed.compare import assert_same_training
from tests.distributed.processes import Pool
from tests.distributed.training import CUT, GROUPS, Job, train

STEPS = 5
JOBS: dict[str, Job] = {
    "LARS": Job("", "LARS", steps=STEPS),
    "LAMB, parts": Job("", "LAMB", CUT, steps=STEPS),
    "LAMB, groups": Job("", "LAMB", groups=GROUPS, steps=STEPS),
    "Layca momentum": Job("", "Layca momentum", steps=STEPS),
    "Layca adam, parts": Job("", "Layca adam", CUT, steps=STEPS),
    "PercentDelta": Job("", "PercentDelta", steps=STEPS),
    "wrapped Adam": Job("", "wrapped Adam", steps=STEPS),
    "wrapped SGD": Job("", "wrapped SGD", steps=STEPS),
}
cases = pytest.mark.parametrize("case", JOBS)
laid_cases = pytest.mark.parametrize(
    ("layout", "case"), [*(("fsdp", case) for case in JOBS), ("fsdp x tp", "LAMB, groups"), ("tp", "Layca adam, parts")]
)


def whole_training(case: str) -> Any:
    return train(replace(JOBS[case], layout="plain", steps=3 * STEPS))


@cases
def test_four_then_two_then_one(pool: Pool, tmp_path: Path, case: str) -> None:
    """Saved by four processes, gone on with by two, and at last by one that has no process group."""
    job, first, second = JOBS[case], str(tmp_path / "first"), str(tmp_path / "second")
    pool.run(saving.stage, 4, job=replace(job, layout="fsdp"), first=0, load=None, save=first)
    pool.run(saving.stage, 2, job=replace(job, layout="fsdp"), first=STEPS, load=first, save=second)
    last = saving.stage(replace(job, layout="plain"), 2 * STEPS, second, None)
    assert_same_training([last], whole_training(case))


@pytest.mark.parametrize("case", ["LAMB, parts", "Layca momentum"])
def test_one_then_four_otherwise_laid_out(pool: Pool, tmp_path: Path, case: str) -> None:
    """From one process to tensor-parallel FSDP2, and on to FSDP2."""
    job, first, second = JOBS[case], str(tmp_path / "first"), str(tmp_path / "second")
    saving.stage(replace(job, layout="plain"), 0, None, first)
    pool.run(saving.stage, 4, job=replace(job, layout="fsdp x tp"), first=STEPS, load=first, save=second)
    ranks = pool.run(saving.stage, 4, job=replace(job, layout="fsdp"), first=2 * STEPS, load=second, save=None)
    assert_same_training(ranks, whole_training(case))


def test_names_in_the_keys(pool: Pool, tmp_path: Path) -> None:
    job, folder = JOBS["LAMB, groups"], str(tmp_path / "saved")
    pool.run(saving.stage, 4, job=replace(job, layout="fsdp"), first=0, load=None, save=folder, flat=True)
    ranks = pool.run(saving.stage, 2, job=replace(job, layout="fsdp"), first=STEPS, load=folder, save=None, flat=True)
    assert_same_training(ranks, train(replace(job, layout="plain", steps=2 * STEPS)))


@pytest.mark.parametrize("case", ["LAMB, groups", "Layca adam, parts", "wrapped SGD"])
def test_one_file_of_whole_tensors(pool: Pool, case: str) -> None:
    job = JOBS[case]
    saved = pool.run(saving.full, 4, job=replace(job, layout="fsdp"), first=0, load=None)[0][1]
    ranks = pool.run(saving.full, 2, job=replace(job, layout="fsdp"), first=STEPS, load=saved)
    assert_same_training([part for part, _ in ranks], train(replace(job, layout="plain", steps=2 * STEPS)))
    last, _ = saving.full(replace(job, layout="plain"), 2 * STEPS, ranks[0][1])
    assert_same_training([last], whole_training(case))


@laid_cases
def test_round_trip(pool: Pool, layout: str, case: str) -> None:
    """To the bit: nothing of the state is lost or rounded."""
    for first, second in pool.run(saving.round_trip, 4, job=replace(JOBS[case], layout=layout)):
        assert first.weights.keys() == second.weights.keys()
        for name, w in first.weights.items():
            assert torch.equal(second.weights[name], w), name
            assert second.state[name].keys() == first.state[name].keys()
            for key, value in first.state[name].items():
                assert torch.equal(second.state[name][key], value), (name, key)


@laid_cases
def test_the_phantom_step_leaves_no_trace(pool: Pool, layout: str, case: str) -> None:
    job = replace(JOBS[case], layout=layout)
    expected = train(replace(job, layout="plain"))
    ranks = pool.run(saving.phantom, 4, job=job)
    for left, _ in ranks:
        assert left["moved"] == [] and left["grads"] == []
        for name, state in left["state"].items():
            for key, value in state.items():
                assert not value.isnan().any(), (name, key)
                # torch's own optimizers count the phantom step.
                if not (case.startswith("wrapped") and key == "step"):
                    assert not value.any(), (name, key)
    if case != "wrapped Adam":  # whose bias correction goes on from the count
        assert_same_training([part for _, part in ranks], expected)


@pytest.mark.parametrize("layout", ["fsdp", "fsdp x tp", "tp"])
@pytest.mark.parametrize("case", ["Layca momentum", "Layca adam, parts"])
def test_initial_norms_are_those_of_layers(pool: Pool, layout: str, case: str) -> None:
    """Not of shards: one number a layer in float64, the same on every rank as in one process."""
    job = replace(JOBS[case], layout=layout)
    parts, expected = pool.run(train, 4, job=job), train(replace(job, layout="plain"))
    for part in parts:
        for name, state in expected.state.items():
            got = part.state[name]["initial_norm"]
            assert got.dtype == torch.float64 and got.shape == state["initial_norm"].shape
            torch.testing.assert_close(got, state["initial_norm"], rtol=1e-12, atol=0)
            assert torch.equal(got, parts[0].state[name]["initial_norm"])
