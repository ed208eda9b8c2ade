"""Trainers obey the rates of `lp.layers.decay` with torch's AdamW: each group's at each step, also after a resume."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import Tensor, nn

import layerpace as lp

os.environ["HF_HUB_OFFLINE"] = "1"

LR, FACTOR = 0.02, 0.5
STEPS = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """A stem, two blocks, a head: depths 0 to 3. Block 0 is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 5), nn.Sequential(Block(), Block()), nn.Linear(5, 3))
        self.net[1][0].requires_grad_(False)  # type: ignore[index]

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


SCALES = [FACTOR**3, FACTOR**3, FACTOR, FACTOR, 1.0, 1.0]  # of depths 0, 2 and 3, each with and without weight decay


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(lp.layers.decay(model, FACTOR, LR, weight_decay=0.1))


def noting(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    """The rates that each further step is taken with."""
    rates: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda own, args, kwargs: rates.append([group["lr"] for group in own.param_groups])
    )
    return rates


def check(rates: list[list[float]], schedule: list[float]) -> None:
    assert len(rates) == len(schedule)
    for step, (found, share) in enumerate(zip(rates, schedule, strict=True)):
        assert found == pytest.approx([LR * share * scale for scale in SCALES], rel=1e-12, abs=0), step


# transformers: a warm-up over two steps, then linear to 0


def linear(step: int) -> float:
    return step / 2 if step < 2 else (STEPS - step) / (STEPS - 2)


def trainer_of_transformers(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=tiny.BATCH,
        max_steps=STEPS,
        lr_scheduler_type="linear",
        warmup_steps=2,
        learning_rate=123.0,  # the groups have their own
        logging_steps=1,
        save_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = Classifier()
    data = [{"x": x, "labels": y} for x, y in tiny.examples()]
    return transformers.Trainer(model=model, args=args, train_dataset=data, optimizers=(adamw(model), None))


def test_the_trainer_of_transformers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trainer_of_transformers(tmp_path)
        rates = noting(trainer.optimizer)
        trainer.train()
        check(rates, [linear(step) for step in range(STEPS)])
        logged = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
        assert logged == pytest.approx([LR * FACTOR**3 * linear(step) for step in range(STEPS)])  # of the first group

        resumed = trainer_of_transformers(tmp_path)
        rates = noting(resumed.optimizer)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        check(rates, [linear(step) for step in range(4, STEPS)])
    tiny.same(resumed.model, tiny.weights(trainer.model))


# Lightning: torch's OneCycleLR with a rate for each group, logged by its own LearningRateMonitor


def one_cycle() -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=STEPS + 1, cycle_momentum=False)
    shares = []
    for _ in range(STEPS):
        shares.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return shares


def fit(folder: Path, epochs: int, resume: Path | None = None) -> tuple[Any, list[list[float]], list[dict[str, float]]]:
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.loggers.logger import DummyLogger

    logged: list[dict[str, float]] = []

    class Logger(DummyLogger):  # type: ignore[misc, valid-type]
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append(metrics)

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.model(*batch)["loss"]  # type: ignore[no-any-return]

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.utils.data.Subset(tiny.examples(), range(16)), batch_size=8)

        def configure_optimizers(self) -> Any:
            self.optimizer = adamw(self.model)
            self.rates = noting(self.optimizer)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, max_lr=[group["lr"] for group in self.optimizer.param_groups], total_steps=STEPS + 1
            )
            return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            default_root_dir=folder,
            logger=Logger(),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                LearningRateMonitor(logging_interval="step"),
                ModelCheckpoint(dirpath=folder, filename=f"after-{epochs}"),
            ],
        )
        trainer.fit(module, ckpt_path=resume, **({} if resume is None else {"weights_only": False}))
    return module, module.rates, logged


def test_lightning(tmp_path: Path) -> None:
    shares = one_cycle()
    whole, rates, logged = fit(tmp_path, 3)
    check(rates, shares)
    logged = [line for line in logged if any(name.startswith("lr-") for name in line)]
    for line, expected in zip(logged, rates, strict=True):
        assert [line[f"lr-AdamW/pg{k + 1}"] for k in range(len(SCALES))] == expected

    fit(tmp_path, 2)
    resumed, rates, _ = fit(tmp_path, 3, tmp_path / "after-2.ckpt")
    check(rates, shares[4:])
    tiny.same(resumed.model, tiny.weights(whole.model))
