"""A training that transformers' Trainer runs, on one process or on several."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType
from tests.integrations.notes import OPTIMIZER_CLASSES
from tests.integrations.ranks import Seen, world
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from layerpace.integrations.transformers import LayerMonitorCallback

BATCH = 4  # examples of all processes
GPT2 = {"vocab_size": 29, "n_positions": 8, "n_embd": 6, "n_layer": 2, "n_head": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "loss_type": "ForCausalLM"}
FSDP2 = {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]}


def train(
    folder: Path,
    *,
    sharded: bool,
    optimizer: str = "LAMB",
    steps: int = 12,
    save_every: int = 0,
    resume: Path | None = None,
    named: bool = False,
    **options: Any,
) -> Seen | None:
    """Train a small GPT-2 in float64; ``named`` names the checkpoint in the arguments, too."""
    size = world()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **ENDS, **dropout)).double()
    rows = torch.randint(0, 29, (64, 8), generator=torch.Generator().manual_seed(1))
    callback = LayerMonitorCallback(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH // size,
            max_steps=12,
            logging_steps=2,
            save_strategy="steps" if save_every else "no",
            save_steps=save_every or 1,
            resume_from_checkpoint=str(resume) if named else None,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **({"fsdp": True, "fsdp_config": FSDP2} if sharded and size > 1 else {}),
        )
        if sharded and size > 1:  # accelerate shards nothing on CPUs unless it takes them for something else
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        kind, settings = OPTIMIZER_CLASSES[optimizer]
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            optimizer_cls_and_kwargs=(kind, dict(settings)),
            callbacks=[callback, StopAt(steps)],
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if size > 1:
        assert isinstance(trainer.model, FSDPModule) == sharded
        assert all(isinstance(param, DTensor) == sharded for param in trainer.model.parameters())
    return Seen.of(callback.monitor)


class StopAt(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Ends a training before its time."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step
