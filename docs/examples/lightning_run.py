"""A training that Lightning runs, watched layer by layer: one line.

    python docs/examples/lightning_run.py
    layerpace report runs/lightning/layers

Trains a small network to tell three spiral arms apart. Nothing is downloaded: the points are made here.
"""

import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layerpace as lp
from layerpace.integrations.lightning import LayerMonitor

ARMS = 3


def points(count: int, seed: int) -> TensorDataset:
    """`count` points in the plane, and the arm each lies on."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.arange(count) % ARMS
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 2 * math.pi * (radius + arm / ARMS) + 0.1 * torch.randn(count, generator=generator)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm)


class Spirals(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, ARMS)
        )

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_accuracy", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return lp.LAMB(self.parameters(), lr=0.02)


def main(folder: Path = Path("runs/lightning"), epochs: int = 10) -> None:
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=[LayerMonitor()],  # the one line
    )
    train, test = (DataLoader(points(count, seed), batch_size=100) for seed, count in enumerate((3000, 1000)))
    trainer.fit(Spirals(), train, test)
    print(f"validation accuracy {trainer.callback_metrics['val_accuracy']:.3f}; records in {folder / 'layers'}")


if __name__ == "__main__":
    main()
