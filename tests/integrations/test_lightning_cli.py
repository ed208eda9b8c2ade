"""LightningCLI: optimizers, what they are made of, and the callback from YAML; the weights are those of Python."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import Tensor

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from lightning.pytorch.cli import LightningCLI, OptimizerCallable  # noqa: E402

import layerpace as lp  # noqa: E402
from layerpace.monitors.folder import load  # noqa: E402

TRAINER = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}
"""
CALLBACK = """
  callbacks:
    - class_path: layerpace.integrations.lightning.LayerMonitor
      init_args: {every: 2, rotation_every: 4, out: FOLDER/mine}
"""
OPTIMIZERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "LAMB": (
        "{class_path: layerpace.LAMB, init_args: {lr: 0.01, betas: [0.8, 0.9], trust_clip: 'running(deviations=1)'}}",
        partial(lp.LAMB, lr=0.01, betas=(0.8, 0.9), trust_clip=lp.rules.RunningBounds(deviations=1.0)),
    ),
    "LAMBC": (
        "{class_path: layerpace.LAMBC, init_args: {lr: 0.1, exclude: null, "
        "trust_clip: {class_path: layerpace.rules.FallingBound, init_args: {start: 3.0}}}}",
        partial(lp.LAMBC, lr=0.1, exclude=None, trust_clip=lp.rules.FallingBound(start=3.0)),
    ),
    "LARS": ("{class_path: layerpace.LARS, init_args: {lr: 2.0}}", partial(lp.LARS, lr=2.0)),
    "PercentDelta": ("{class_path: layerpace.PercentDelta}", lp.PercentDelta),
    "Layca by name": (
        "{class_path: layerpace.Layca, init_args: {lr: 0.01, direction: radam}}",
        partial(lp.Layca, lr=0.01, direction="radam"),
    ),
    "Layca by class path": (
        "{class_path: layerpace.Layca, init_args: {lr: 0.01, direction: "
        "{class_path: layerpace.directions.RMSProp, init_args: {momentum: 0.9}}}}",
        partial(lp.Layca, lr=0.01, direction=lp.directions.RMSProp(momentum=0.9)),
    ),
    "Layerwise": (
        "{class_path: layerpace.Layerwise, init_args: {lr: 0.01, direction: adam, rule: "
        "{class_path: layerpace.rules.TrustRatio, init_args: {clip: [0.1, 2.0]}}}}",
        partial(lp.Layerwise, lr=0.01, direction="adam", rule=lp.rules.TrustRatio(clip=(0.1, 2.0))),
    ),
    "Wrapped": (
        "{class_path: layerpace.Wrapped, init_args: {rule: rotation, optimizer: "
        "{class_path: torch.optim.AdamW, init_args: {lr: 0.01}}}}",
        lambda params: lp.wrap(torch.optim.AdamW(params, lr=0.01), "rotation"),
    ),
}


class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.model()

    def training_step(self, batch: Any, index: int) -> Tensor:
        return tiny.loss(self.net, batch)

    def train_dataloader(self) -> Any:
        return tiny.batches()


class MakesIts(Net):
    """The other way of Lightning's: the module is given what makes an optimizer."""

    def __init__(self, make: OptimizerCallable) -> None:
        super().__init__()
        self.make = make

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def run(module: type[Net], folder: Path, text: str) -> Any:
    (folder / "config.yaml").write_text(TRAINER.format(folder=folder) + text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LightningCLI(module, args=["fit", "--config", str(folder / "config.yaml")], save_config_callback=None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_weights_are_those_of_the_optimizer_made_in_python(name: str, tmp_path: Path) -> None:
    text, make = OPTIMIZERS[name]
    expected = tiny.trained(lambda net: make(net.parameters()))
    callback = CALLBACK.replace("FOLDER", str(tmp_path))
    cli = run(Net, tmp_path, f"{callback}optimizer: {text}\n")
    tiny.same(cli.model.net, expected)
    (recorded,) = load(tmp_path / "mine")
    assert recorded.history.steps == [1, 2, 4]


@pytest.mark.parametrize("name", ["LAMBC", "Layca by class path", "Wrapped"])
def test_a_module_that_takes_what_makes_an_optimizer(name: str, tmp_path: Path) -> None:
    text, make = OPTIMIZERS[name]
    cli = run(MakesIts, tmp_path, f"model: {{make: {text}}}\n")
    tiny.same(cli.model.net, tiny.trained(lambda net: make(net.parameters())))


def test_the_callback_has_the_options_of_a_monitor() -> None:
    from layerpace.integrations.lightning import LayerMonitor

    assert issubclass(LayerMonitor, pl.Callback)
    options = set(inspect.signature(lp.Monitor).parameters) - {"model", "optimizer"}
    assert set(inspect.signature(LayerMonitor).parameters) == options | {"logger"}
