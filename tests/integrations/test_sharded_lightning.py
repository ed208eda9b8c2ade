"""`LayerMonitor` where Lightning spreads a model over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.processes import Pool
from tests.integrations.notes import check_same, record_lines
from tests.integrations.sharded_lightning import fit

from layerpace.monitors.folder import load

PATIENCE = 150.0  # seconds; the first job imports Lightning


@pytest.mark.parametrize(
    ("layout", "optimizer"), [("fsdp", "AdamW"), ("fsdp", "LAMB"), ("tp", "LAMB"), ("ddp", "LAMB")]
)
def test_records_are_those_of_one_process(layout: str, optimizer: str, pool: Pool, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "layout": layout,
        "optimizer": optimizer,
        "every": 2,
        "rotation_every": 2,
        "second_moment": True,
    }
    fit(tmp_path / "one", **options)
    seen, other = pool.run(fit, 2, timeout=PATIENCE, folder=tmp_path / "two", **options)
    (one,), (two,) = load(tmp_path / "one" / "layers"), load(tmp_path / "two" / "layers")
    assert one.history.steps == [1, 2, 4, 6, 8, 10, 12]
    check_same(two.history, one.history)
    check_same(seen.history, one.history)
    assert two.layers == one.layers and two.finished
    assert seen.path == tmp_path / "two" / "layers" and set(two.scalars) == {"train_loss"}
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["layers"]
    assert len(record_lines(tmp_path / "two" / "layers")) == len(record_lines(tmp_path / "one" / "layers"))
    if layout == "ddp":
        assert other is None
    else:  # the other rank measures, too, and has nothing to write to
        check_same(other.history, one.history)
        assert other.path is None and not other.scalars


@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_training_has_the_records_of_one_that_was_not_stopped(
    processes: int, pool: Pool, tmp_path: Path
) -> None:
    """On as many processes or on one, and in another folder."""
    options: dict[str, Any] = {"layout": "fsdp", "every": 3, "rotation_every": 3}
    whole = fit(tmp_path / "whole", **options)
    cut, checkpoint = tmp_path / "cut", tmp_path / "half.ckpt"
    files = processes > 1
    before, _ = pool.run(
        fit, 2, timeout=PATIENCE, folder=cut, epochs=1, save=checkpoint, files=files, again=2, **options
    )
    assert before.history.steps == [1, 3, 6] and checkpoint.is_dir() == files
    there = tmp_path / "there"
    if processes == 1:
        seen = fit(there, resume=checkpoint, **options)
    else:
        seen, other = pool.run(fit, 2, timeout=PATIENCE, folder=there, resume=checkpoint, **options)
        assert other.step == 12 and other.path is None and not (there / "layers-2").exists()
    assert whole is not None and seen is not None and seen.step == 12
    (run,) = load(there / "layers")
    check_same(run.history, whole.history)
    check_same(seen.history, whole.history)
    assert len(record_lines(there / "layers")) == len(record_lines(tmp_path / "whole" / "layers"))
    for name, initial in whole.initial.items():
        torch.testing.assert_close(seen.initial[name], initial, rtol=0, atol=0)
    assert load(cut / "layers")[0].history.steps == [1, 3, 6]  # as it was
