"""A training that Lightning runs, on one process or on several."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from tests.integrations.notes import OPTIMIZERS
from tests.integrations.ranks import Seen, world
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from layerpace.integrations.lightning import LayerMonitor

BATCHES, BATCH = 4, 8  # an epoch, and examples of all processes


class Net(pl.LightningModule):
    """Layers that two processes cut unevenly, in float64, so that the order of sums tells nothing."""

    def __init__(self, optimizer: str, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = 8 if layout == "tp" else 7
        self.net = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double()
        self.make, self.layout = OPTIMIZERS[optimizer], layout

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is None or isinstance(self.net[0].weight, DTensor):
            return
        if self.layout == "tp":
            parallelize_module(self.net, mesh["tensor_parallel"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        else:
            fully_shard(self.net[0], mesh=mesh["data_parallel"])
            fully_shard(self.net, mesh=mesh["data_parallel"])

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.parameters())


def strategy(layout: str, files: bool) -> Any:
    size = world()
    if size == 1:
        return "auto"
    if layout == "ddp":
        return "ddp"
    data = 1 if layout == "tp" else size
    return ModelParallelStrategy(data, size // data, save_distributed_checkpoint=files)


def fit(
    folder: Path,
    layout: str,
    *,
    optimizer: str = "LAMB",
    epochs: int = 3,
    resume: Path | None = None,
    save: Path | None = None,
    files: bool = True,
    again: int | None = None,
    **options: Any,
) -> Seen | None:
    """Train; ``save`` is for a checkpoint at the end, of a file each process or of one, ``again`` fits once more."""
    size, net = world(), Net(optimizer, layout)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * BATCH, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (BATCHES * BATCH,), generator=generator)
    shares, share = (1, 0) if layout == "tp" or size == 1 else (size, dist.get_rank())
    examples = torch.utils.data.TensorDataset(x[share::shares], y[share::shares])
    loader = torch.utils.data.DataLoader(examples, batch_size=BATCH // shares)
    callback = LayerMonitor(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=size,
            strategy=strategy(layout, files),
            max_epochs=epochs,
            default_root_dir=folder,
            callbacks=[callback],
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(net, loader, ckpt_path=resume)
        if size > 1 and layout == "fsdp":
            assert isinstance(net.net, FSDPModule) and isinstance(net.net[2].bias, DTensor)
        if size > 1:
            assert bool(callback.state_dict()) == (dist.get_rank() == 0)
        if save is not None:
            trainer.save_checkpoint(save)
        if again is not None:
            trainer.fit_loop.max_epochs = again
            trainer.fit(net, loader)
    return Seen.of(callback.monitor)
