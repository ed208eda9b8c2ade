"""The examples run as they stand, and each ends in a report."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from layerpace import cli
from layerpace.monitors.folder import load

os.environ["HF_HUB_OFFLINE"] = "1"

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "library", "length", "scalars"),
    [
        ("plain_loop", "torch", 80, {"loss", "test_accuracy"}),
        ("lightning_run", "lightning", 2, {"train_loss", "val_accuracy"}),
        ("transformers_run", "transformers", 40, {"loss", "lr", "total_grad_norm"}),
    ],
)
def test_an_example_ends_in_a_report(
    name: str, library: str, length: int, scalars: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    example(name).main(tmp_path / "run", length)
    printed = capsys.readouterr().out
    assert "accuracy" in printed or "loss" in printed
    folder = tmp_path / "run" if name == "plain_loop" else tmp_path / "run" / "layers"
    (run,) = load(folder)
    assert run.finished and len(run.history) > 3 and scalars <= set(run.scalars)
    cli.dispatch(["report", str(folder), "--out", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert all(layer.name in page for layer in run.layers)
