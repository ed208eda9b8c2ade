"""Optimizers that transformers' Trainer makes: the weights are those of one made by hand, names and settings too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import layerpace as lp  # noqa: E402

GLOBS = ["net.2.*", "*.bias"]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.model()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


def trained(folder: Path, options: Callable[[nn.Module, Any], dict[str, Any]]) -> tuple[nn.Module, Any]:
    model = Classifier()
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=tiny.BATCH,
        max_steps=4,
        learning_rate=0.02,
        weight_decay=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    data = [{"x": x, "labels": y} for x, y in tiny.examples()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = transformers.Trainer(model=model, args=args, train_dataset=data, **options(model, args))
        trainer.train()
    return model, trainer.optimizer.optimizer


def by_hand(model: nn.Module, args: Any) -> dict[str, Any]:
    named = dict(model.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named.items() if not n.endswith("bias")], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named.items() if n.endswith("bias")], "weight_decay": 0.0},
    ]
    return {"optimizers": (lp.LAMB(groups, lr=0.02, exclude=GLOBS), None)}


FORMS: dict[str, Callable[[nn.Module, Any], dict[str, Any]]] = {
    "a class": lambda model, args: {
        "optimizer_cls_and_kwargs": (
            lp.LAMB,
            {"lr": args.learning_rate, "exclude": lp.layers.matching(model, GLOBS)},
        )
    },
    "a factory": lambda model, args: {
        "optimizer_cls_and_kwargs": (
            lambda: (
                lambda net, **more: lp.LAMB(
                    net.named_parameters(), lr=args.learning_rate, weight_decay=args.weight_decay, exclude=GLOBS, **more
                )
            ),
            {},
        )
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_trainer_makes_what_is_made_by_hand(form: str, tmp_path: Path) -> None:
    expected, _ = trained(tmp_path, by_hand)
    got, optimizer = trained(tmp_path, FORMS[form])
    assert [cut.excluded for cut in optimizer.layers.values()].count(False) == 1
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}
    tiny.same(got, tiny.weights(expected), rtol=1e-6, atol=1e-8)


def test_arguments_do_not_reach_a_class_by_themselves(tmp_path: Path) -> None:
    """What docs/trainers.md warns of; if it fails one day, the warning can go."""
    _, optimizer = trained(tmp_path, lambda model, args: {"optimizer_cls_and_kwargs": (lp.LAMB, {})})
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert sorted({group["weight_decay"] for group in optimizer.param_groups}) == [0.0, 0.1]


def test_a_wrapped_optimizer(tmp_path: Path) -> None:
    settings = {"optimizer": torch.optim.AdamW, "rule": "rotation", "lr": 0.02}
    got, _ = trained(tmp_path, lambda model, args: {"optimizer_cls_and_kwargs": (lp.Wrapped, settings)})

    def hand(model: nn.Module, args: Any) -> dict[str, Any]:
        named = dict(model.named_parameters())
        groups = [
            {"params": [p for n, p in named.items() if not n.endswith("bias")], "weight_decay": 0.1},
            {"params": [p for n, p in named.items() if n.endswith("bias")], "weight_decay": 0.0},
        ]
        return {"optimizers": (lp.wrap(torch.optim.AdamW(groups, lr=0.02), "rotation"), None)}

    tiny.same(got, tiny.weights(trained(tmp_path, hand)[0]), rtol=1e-6, atol=1e-8)
