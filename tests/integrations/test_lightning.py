"""`LayerMonitor` under the real Lightning, on a CPU."""

from __future__ import annotations

import copy
import csv
import pickle
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations.notes import OPTIMIZERS, Step, check_records, check_same, noting, record_lines, weights
from torch import Tensor, nn

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from layerpace.integrations.lightning import LayerMonitor, LoggerSink  # noqa: E402
from layerpace.monitors.folder import load  # noqa: E402

BATCHES = 4  # an epoch


class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
    """Two layers; notes its optimizer's steps."""

    def __init__(self, optimizer: str = "AdamW", stop_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)
        self.make, self.stop_at = OPTIMIZERS[optimizer], stop_at
        self.initial = weights(self)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(float(loss))
        if self.stop_at is not None and len(self.losses) > self.stop_at:
            raise RuntimeError("power cut")
        self.log("train_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def on_train_epoch_end(self) -> None:
        self.log("epoch_number", float(self.current_epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make(self.parameters())
        self.steps: list[Step] = noting(optimizer, self)
        return optimizer


def loader(batches: int = BATCHES) -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * 8, 5, generator=generator)
    y = torch.randint(0, 3, (batches * 8,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def trainer(folder: Path, callback: Any, epochs: int = 3, **options: Any) -> Any:
    options = {"logger": False, "enable_checkpointing": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            default_root_dir=folder,
            callbacks=[callback, *options.pop("callbacks", ())],
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )


def fit(folder: Path, callback: Any, net: Any, *, validate: bool = False, **options: Any) -> Any:
    made = trainer(folder, callback, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(net, loader(), loader(1) if validate else None)
    return made


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_records_are_what_weight_copies_give(optimizer: str, tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=3, rotation_every=3), Net(optimizer)
    fit(tmp_path, callback, net)
    at = [1, 3, 6, 9, 12]
    assert callback.monitor is not None
    check_records(callback.monitor.history, net.steps, at, net.initial)
    (run,) = load(tmp_path / "layers")
    check_records(run.history, net.steps, at, net.initial)
    assert run.finished
    assert ("trust_ratio" in run.history) == (optimizer == "LAMB")


def test_gradient_accumulation_counts_steps_and_averages_the_loss(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=2), Net()
    fit(tmp_path, callback, net, accumulate_grad_batches=2)
    assert callback.monitor is not None
    assert len(net.losses) == 12 and len(net.steps) == 6
    check_records(callback.monitor.history, net.steps, [1, 2, 4, 6], net.initial)
    loss = callback.monitor.run.scalars["loss"]
    assert loss.steps == [1, 2, 4, 6]
    expected = [sum(net.losses[2 * step - 2 : 2 * step]) / 2 for step in loss.steps]
    assert loss.values == pytest.approx(expected, rel=1e-6)


def test_scalars_of_the_module_are_recorded_once_and_at_their_step(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=3), Net()
    fit(tmp_path, callback, net, validate=True)  # with Lightning's sanity check, before any step
    (run,) = load(tmp_path / "layers")
    steps = {name: series.steps for name, series in run.scalars.items()}
    assert steps == {
        "loss": [1, 3, 6, 9, 12],
        "train_accuracy": [1, 3, 6, 9, 12],
        "val_loss": [4, 8, 12],
        "epoch_number": [4, 8, 12],
    }
    assert run.scalars["loss"].values == pytest.approx([net.losses[step - 1] for step in steps["loss"]], rel=1e-6)
    assert run.scalars["epoch_number"].values == [0, 1, 2]


def test_scalars_that_are_means_over_the_epoch_too(tmp_path: Path) -> None:
    """And a validation in the middle of an epoch."""

    class Both(Net):
        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = super().training_step(batch, index)
            self.log("both_loss", loss, on_step=True, on_epoch=True)
            return loss

    net = Both()
    fit(tmp_path, LayerMonitor(every=3), net, validate=True, val_check_interval=2)
    (run,) = load(tmp_path / "layers")
    assert {name: series.steps for name, series in run.scalars.items()} == {
        "train_accuracy": [1, 3, 6, 9, 12],
        "both_loss_step": [1, 3, 6, 9, 12],
        "both_loss_epoch": [4, 8, 12],
        "val_loss": [2, 4, 6, 8, 10, 12],
        "epoch_number": [4, 8, 12],
    }
    means = [sum(net.losses[start : start + BATCHES]) / BATCHES for start in (0, 4, 8)]
    assert run.scalars["both_loss_epoch"].values == pytest.approx(means, rel=1e-6)


class TwoOptimizers(Net):
    """Manual optimization: the last layer is trained at every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> Any:
        first, last = self.optimizers()
        loss = self.loss(batch)
        first.zero_grad()
        last.zero_grad()
        self.manual_backward(loss)
        first.step()
        if index % 2 == 1:
            last.step()
        self.log("my_loss", loss)
        return {"loss": loss.detach()}

    def configure_optimizers(self) -> Any:
        first, last = OPTIMIZERS["AdamW"](self.first.parameters()), OPTIMIZERS["LAMB"](self.last.parameters())
        self.steps_of_first, self.steps_of_last = noting(first, self), noting(last, self)
        return first, last


def test_several_optimizers_in_manual_optimization(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=2), TwoOptimizers()
    fit(tmp_path, callback, net, epochs=2)
    assert callback.monitor is not None
    assert callback.monitor.step == 8 and len(net.steps_of_last) == 4
    (run,) = load(tmp_path / "layers")
    for layer, notes in (("first.weight", net.steps_of_first), ("last.weight", net.steps_of_last)):
        steps, values = run.history.series("weight_norm", layer)
        assert steps == [step for step in range(1, len(notes) + 1) if step == 1 or step % 2 == 0]
        assert values == pytest.approx([float(notes[step - 1][layer][0].norm()) for step in steps], rel=1e-6)
    assert run.scalars["my_loss"].steps == [1, 2, 4, 6, 8]
    assert "loss" not in run.scalars


def test_bf16_mixed_precision(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=3), Net("LAMB")
    fit(tmp_path, callback, net, precision="bf16-mixed")
    assert callback.monitor is not None
    check_records(callback.monitor.history, net.steps, [1, 3, 6, 9, 12], net.initial)


def test_clipping_comes_before_the_record(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=1), Net()
    fit(tmp_path, callback, net, epochs=1, gradient_clip_val=0.01)
    assert callback.monitor is not None
    check_records(callback.monitor.history, net.steps, [1, 2, 3, 4], net.initial)
    total = callback.monitor.history["grad_norm"].square().sum(1).sqrt()
    torch.testing.assert_close(total, torch.full((4,), 0.01), rtol=1e-3, atol=0)


def test_fast_dev_run_records_in_memory(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=1), Net()
    fit(tmp_path, callback, net, validate=True, fast_dev_run=2)
    assert callback.monitor is not None
    assert callback.monitor.history.steps == [1, 2]
    assert not list(tmp_path.iterdir())


def test_an_exception_leaves_the_records_and_no_hooks(tmp_path: Path) -> None:
    callback, net = LayerMonitor(every=1), Net(stop_at=6)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, callback, net)
    (run,) = load(tmp_path / "layers")
    check_records(run.history, net.steps, [1, 2, 3, 4, 5, 6], net.initial)
    optimizer = net.optimizers(use_pl_optimizer=False)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def saving(folder: Path, every: int) -> Any:
    return pl.callbacks.ModelCheckpoint(dirpath=folder, every_n_train_steps=every, save_top_k=-1, filename="{step}")


@pytest.mark.parametrize("place", ["the same", "another"])
def test_a_resumed_training_has_the_records_of_one_that_was_not_stopped(place: str, tmp_path: Path) -> None:
    whole, net = LayerMonitor(every=3, rotation_every=3), Net("LAMB")
    fit(tmp_path / "whole", whole, net)
    cut = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(
            cut,
            LayerMonitor(every=3, rotation_every=3),
            Net("LAMB", stop_at=11),
            enable_checkpointing=True,
            callbacks=[saving(cut, BATCHES)],
        )
    (before,) = load(cut / "layers")
    assert before.history.steps == [1, 3, 6, 9]
    there = cut if place == "the same" else tmp_path / "there"
    callback = LayerMonitor(every=3, rotation_every=3)
    made = trainer(there, callback)
    resumed = Net("LAMB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(resumed, loader(), ckpt_path=cut / "step=4.ckpt")
    (run,), (other,) = load(there / "layers"), load(tmp_path / "whole" / "layers")
    assert whole.monitor is not None and callback.monitor is not None
    assert callback.monitor.step == 12
    check_same(run.history, whole.monitor.history)
    check_same(callback.monitor.history, run.history)
    assert run.scalars == other.scalars
    assert len(record_lines(there / "layers")) == len(record_lines(tmp_path / "whole" / "layers"))
    if place == "another":
        assert load(cut / "layers")[0].history.steps == [1, 3, 6, 9]


def test_a_second_training_gets_a_folder_of_its_own_and_a_second_fit_goes_on(tmp_path: Path) -> None:
    callback = LayerMonitor(every=2)
    made = fit(tmp_path, callback, Net(), epochs=1)
    made.fit_loop.max_epochs = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(made.lightning_module, loader())
    assert load(tmp_path / "layers")[0].history.steps == [1, 2, 4, 6, 8]
    fit(tmp_path, callback, Net(), epochs=1)
    assert load(tmp_path / "layers")[0].history.steps == [1, 2, 4, 6, 8]
    assert load(tmp_path / "layers-2")[0].history.steps == [1, 2, 4]


def test_out_and_sinks_are_the_monitors(tmp_path: Path) -> None:
    class Kept:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def log(self, values: Any, step: int) -> None:
            self.steps.append(step)

    kept = Kept()
    fit(tmp_path, LayerMonitor(every=4, out=tmp_path / "mine", sinks=[kept]), Net())
    assert load(tmp_path / "mine")[0].history.steps == [1, 4, 8, 12]
    assert not (tmp_path / "layers").exists()
    assert set(kept.steps) == {1, 4, 8, 12}


def test_the_trainers_logger_gets_the_figures_of_layers(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    callback, net = LayerMonitor(every=4, logger=True), Net()
    fit(tmp_path, callback, net, logger=logger, log_every_n_steps=1)
    assert callback.monitor is not None and Path(logger.log_dir) / "layers" == callback.monitor.run.path
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("weight_norm/first.weight")]
    assert [int(row["step"]) for row in rows] == [1, 4, 8, 12]
    expected = [float(net.steps[step - 1]["first.weight"][0].norm()) for step in (1, 4, 8, 12)]
    assert [float(row["weight_norm/first.weight"]) for row in rows] == pytest.approx(expected, rel=1e-6)


def test_loggers_get_what_was_measured_of_layers() -> None:
    logged: list[Any] = []
    logger = types.SimpleNamespace(log_metrics=lambda figures, step: logged.append((figures, step)))
    sink = LoggerSink(types.SimpleNamespace(loggers=[logger]))
    sink.log({"weight_norm/first.weight": 2.0, "trust_ratio/first.weight": float("nan"), "loss": 1.0}, 7)
    sink.log({"loss": 1.0}, 8)
    assert logged == [({"weight_norm/first.weight": 2.0}, 7)]


def test_other_ranks_measure_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, net = LayerMonitor(every=1), Net()
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    fit(tmp_path, callback, net)
    assert callback.monitor is None and callback.state_dict() == {}
    assert not list(tmp_path.iterdir())


def test_copies_and_pickles_are_callbacks() -> None:
    class Mine(LayerMonitor):
        pass

    for made in (LayerMonitor(every=7), Mine(every=7)):
        assert isinstance(made, pl.Callback)
        assert made.state_key == type(made).__name__.rpartition(".")[2] or made.state_key.endswith("Mine")
        twin = copy.deepcopy(made)
        assert type(twin) is type(made) and twin.every == 7
    assert pickle.loads(pickle.dumps(LayerMonitor(every=7))).every == 7


def test_after_the_training_the_records_stay_as_they_are(tmp_path: Path) -> None:
    """A validation, and a checkpoint by hand, from which another training goes on."""
    callback = LayerMonitor(every=2)
    made = fit(tmp_path, callback, Net("LAMB"), epochs=2)
    lines = record_lines(tmp_path / "layers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.validate(made.lightning_module, loader(1), verbose=False)
        made.save_checkpoint(tmp_path / "by_hand.ckpt")
    assert record_lines(tmp_path / "layers") == lines
    made = fit(tmp_path, callback, Net("LAMB"), epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.validate(made.lightning_module, loader(1), ckpt_path=tmp_path / "by_hand.ckpt", verbose=False)
    assert callback.state_dict()["run"] == str(tmp_path / "layers-2")  # not that of the checkpoint
    there = trainer(tmp_path / "there", LayerMonitor(every=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there.fit(Net("LAMB"), loader(), ckpt_path=tmp_path / "by_hand.ckpt")
    assert load(tmp_path / "there" / "layers")[0].history.steps == [1, 2, 4, 6, 8, 10, 12]


def test_a_checkpoint_of_a_training_that_was_not_watched(tmp_path: Path) -> None:
    """The callback has watched another training before."""
    made = fit(tmp_path / "other", pl.callbacks.Callback(), Net(), epochs=1)
    made.save_checkpoint(tmp_path / "other.ckpt")
    callback = LayerMonitor(every=2)
    fit(tmp_path, callback, Net(), epochs=1)
    again = trainer(tmp_path, callback, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(Net(), loader(), ckpt_path=tmp_path / "other.ckpt")
    assert [load(tmp_path / name)[0].history.steps for name in ("layers", "layers-2")] == [[1, 2, 4], [1, 2, 4]]


def test_a_scalar_with_the_name_of_a_quantity_is_renamed(tmp_path: Path) -> None:
    class Logs(Net):
        def training_step(self, batch: Any, index: int) -> Tensor:
            self.log("grad_norm", 1.5)
            return super().training_step(batch, index)

    callback = LayerMonitor(every=5)
    fit(tmp_path, callback, Logs())
    assert callback.monitor is not None
    assert callback.monitor.run.scalars["logged_grad_norm"].values == [1.5, 1.5, 1.5]


def test_the_other_name_of_the_library(tmp_path: Path) -> None:
    """A program that imports pytorch_lightning after layerpace."""
    old = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

    class OldNet(old.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    callback = LayerMonitor(every=3)
    assert isinstance(callback, old.Callback)
    options = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = old.Trainer(accelerator="cpu", max_epochs=1, callbacks=callback, **options)
        made.fit(OldNet(), loader())
        made.save_checkpoint(tmp_path / "old.ckpt")
    assert load(tmp_path / "layers")[0].history.steps == [1, 3]
    assert "LayerMonitor" in torch.load(tmp_path / "old.ckpt", weights_only=True)["callbacks"]
