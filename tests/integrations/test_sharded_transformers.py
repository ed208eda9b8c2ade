"""`LayerMonitorCallback` where the Trainer spreads a model over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.processes import Pool
from tests.integrations.notes import check_same, record_lines
from tests.integrations.sharded_transformers import train

from layerpace.monitors.folder import load

PATIENCE = 150.0  # seconds; the first job imports the libraries


@pytest.mark.parametrize(("sharded", "optimizer"), [(True, "AdamW"), (True, "LAMB"), (False, "LAMB")])
def test_records_are_those_of_one_process(sharded: bool, optimizer: str, pool: Pool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sharded": sharded, "optimizer": optimizer, "every": 3, "rotation_every": 3}
    train(tmp_path / "one", **options)
    seen, other = pool.run(train, 2, timeout=PATIENCE, folder=tmp_path / "two", **options)
    (one,), (two,) = load(tmp_path / "one" / "layers"), load(tmp_path / "two" / "layers")
    assert one.history.steps == [1, 3, 6, 9, 12]
    check_same(two.history, one.history)
    check_same(seen.history, one.history)
    assert two.layers == one.layers and two.finished
    assert seen.path == tmp_path / "two" / "layers" and set(two.scalars) == {"loss", "total_grad_norm", "lr"}
    assert two.scalars["total_grad_norm"].values == pytest.approx(one.scalars["total_grad_norm"].values, rel=1e-6)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["layers"]
    assert len(record_lines(tmp_path / "two" / "layers")) == len(record_lines(tmp_path / "one" / "layers"))
    if not sharded:
        assert other is None
    else:  # the other process measures, too, and has nothing to write to
        check_same(other.history, one.history)
        assert other.path is None and not other.scalars


@pytest.mark.parametrize("place", ["the same", "another"])
def test_a_resumed_training_has_the_records_of_one_that_was_not_stopped(place: str, pool: Pool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sharded": True, "every": 2, "rotation_every": 2, "timeout": PATIENCE}
    whole, _ = pool.run(train, 2, folder=tmp_path / "whole", **options)
    cut = tmp_path / "cut"
    before, _ = pool.run(train, 2, folder=cut, steps=8, save_every=5, **options)
    assert before.history.steps == [1, 2, 4, 6, 8]
    there = cut if place == "the same" else tmp_path / "there"
    options |= {"resume": cut / "checkpoint-5", "named": there != cut}
    seen, other = pool.run(train, 2, folder=there, **options)
    assert seen.step == other.step == 12 and other.path is None
    (run,) = load(there / "layers")
    check_same(run.history, whole.history)
    check_same(seen.history, whole.history)
    assert not (there / "layers-2").exists()
    assert len(record_lines(there / "layers")) == len(record_lines(tmp_path / "whole" / "layers"))
    for name, initial in whole.initial.items():
        torch.testing.assert_close(seen.initial[name], initial, rtol=0, atol=0)
