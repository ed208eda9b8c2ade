"""What Lightning does around an optimizer: precision, clipping, finetuning that goes on; weights are those of loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import Tensor, nn

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

import layerpace as lp  # noqa: E402

MAKERS: dict[str, Callable[[Any], Any]] = {
    "LAMB": lambda params: lp.LAMB(params, lr=0.01),
    "Layca": lambda params: lp.Layca(params, lr=0.02),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),  # what is right here, is so for any optimizer
    "wrap": lambda params: lp.wrap(torch.optim.AdamW(params, lr=0.01), "trust_ratio"),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
CLIP = 0.01


class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.make = tiny.model(), make

    def training_step(self, batch: Any, index: int) -> Tensor:
        return tiny.loss(self.net, batch)

    def train_dataloader(self) -> Any:
        return tiny.batches()

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


def fit(folder: Path, net: Net, resume: Path | None = None, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"max_epochs": 1, "enable_checkpointing": False, **options},
        )
        trainer.fit(net, ckpt_path=resume, **({} if resume is None else {"weights_only": False}))
    return trainer


def clipped_under(dtype: torch.dtype, make: Callable[[Any], Any]) -> nn.Module:
    net = tiny.model()
    optimizer = make(net.parameters())
    for batch in tiny.batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, cache_enabled=False):
            loss = tiny.loss(net, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
    return net


@makers
def test_gradients_are_clipped_under_mixed_precision(make: Callable[[Any], Any], tmp_path: Path) -> None:
    net = Net(make)
    fit(tmp_path, net, precision="bf16-mixed", gradient_clip_val=CLIP)
    tiny.same(net.net, tiny.weights(clipped_under(torch.bfloat16, make)), rtol=1e-5)


@makers
def test_gradients_are_unscaled_before_they_are_clipped(make: Callable[[Any], Any], tmp_path: Path) -> None:
    net, scaler = Net(make), torch.amp.GradScaler("cpu", init_scale=64.0)
    fit(tmp_path, net, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], gradient_clip_val=CLIP)
    tiny.same(net.net, tiny.weights(clipped_under(torch.float16, make)), rtol=5e-3, atol=1e-4)


class Unfreeze(pl.callbacks.BaseFinetuning):  # type: ignore[misc, name-defined]
    """The first layer is frozen for an epoch, and trained at half the rate then."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, initial_denom_lr=2.0)
        elif epoch > 1:  # after a restart the group is there, and the layer is frozen
            self.make_trainable(pl_module.net[0])


def finetuned(make: Callable[[Any], Any]) -> nn.Module:
    net = tiny.model()
    optimizer = make(net[2].parameters())
    for epoch in range(3):
        if epoch == 1:
            optimizer.add_param_group(
                {"params": list(net[0].parameters()), "lr": optimizer.param_groups[0]["lr"] / 2.0}
            )
        for batch in tiny.batches():
            optimizer.zero_grad()
            loss = tiny.loss(net, batch)
            loss.backward()
            if epoch == 0:
                net[0].zero_grad()
            optimizer.step()
    return net


@makers
def test_finetuning_that_goes_on_from_a_checkpoint(make: Callable[[Any], Any], tmp_path: Path) -> None:
    expected = tiny.weights(finetuned(make))
    whole = Net(make)
    fit(tmp_path, whole, callbacks=[Unfreeze()], max_epochs=3)
    tiny.same(whole.net, expected)
    trainer = fit(tmp_path, Net(make), callbacks=[Unfreeze()], max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = Net(make)
    fit(tmp_path, resumed, tmp_path / "two.ckpt", callbacks=[Unfreeze()], max_epochs=3)
    tiny.same(resumed.net, expected)
