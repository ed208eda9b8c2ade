"""`LayerMonitorCallback` under the real Trainer of transformers, on a CPU and without the hub."""

from __future__ import annotations

import copy
import os
import pickle
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.integrations.notes import OPTIMIZERS, check_records, check_same, noting, record_lines, weights

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from layerpace.integrations.transformers import LayerMonitorCallback  # noqa: E402
from layerpace.monitors.folder import load  # noqa: E402


def language_model() -> Any:
    """Two layers of GPT-2, whose output layer is the embedding."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 29, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "loss_type": "ForCausalLM"}
    dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends, **dropout))


def data(rows: int = 64) -> list[dict[str, Any]]:
    ids = torch.randint(0, 29, (rows, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


class Training:
    """A Trainer with its notes."""

    def __init__(self, folder: Path, callback: Any, *others: Any, optimizer: str = "AdamW", **options: Any) -> None:
        self.model = language_model()
        self.initial = weights(self.model)
        made = OPTIMIZERS[optimizer](self.model.parameters())
        self.steps = noting(made, self.model)
        settings = {"max_steps": 12, "logging_steps": 2, "save_strategy": "no", **options}
        self.trainer = transformers.Trainer(
            model=self.model,
            args=transformers.TrainingArguments(
                output_dir=str(folder),
                per_device_train_batch_size=4,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **settings,
            ),
            train_dataset=data(),
            eval_dataset=data(8),
            optimizers=(made, None),
            callbacks=[callback, *others],
        )

    def train(self, **options: Any) -> Training:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.trainer.train(**options)
        return self


class StopAt(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_records_are_what_weight_copies_give(optimizer: str, tmp_path: Path) -> None:
    callback = LayerMonitorCallback(every=3, rotation_every=3)
    training = Training(tmp_path, callback, optimizer=optimizer).train()
    assert type(training.trainer.optimizer).__name__ == "AcceleratedOptimizer"
    at = [1, 3, 6, 9, 12]
    assert callback.monitor is not None
    check_records(callback.monitor.history, training.steps, at, training.initial)
    (run,) = load(tmp_path / "layers")
    check_records(run.history, training.steps, at, training.initial)
    assert run.finished
    assert ("trust_ratio" in run.history) == (optimizer == "LAMB")
    names = [name for name, _ in training.model.named_parameters()]
    assert list(run.history.layers) == names  # the tied embedding is one layer


def test_gradient_accumulation_counts_steps(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(every=2)
    training = Training(tmp_path, callback, gradient_accumulation_steps=3, max_steps=5).train()
    assert len(training.steps) == 5
    assert callback.monitor is not None
    check_records(callback.monitor.history, training.steps, [1, 2, 4], training.initial)


def test_gradients_are_recorded_after_clipping(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(every=1)
    Training(tmp_path, callback, max_grad_norm=0.01, max_steps=3, logging_steps=1).train()
    (run,) = load(tmp_path / "layers")
    total = run.history["grad_norm"].square().sum(1).sqrt()
    torch.testing.assert_close(total, torch.full((3,), 0.01), rtol=1e-3, atol=0)
    assert min(run.scalars["total_grad_norm"].values) > 0.1


def test_what_the_trainer_logs_is_recorded(tmp_path: Path) -> None:
    training = Training(tmp_path, LayerMonitorCallback(every=5), eval_strategy="steps", eval_steps=4).train()
    (run,) = load(tmp_path / "layers")
    assert {name: series.steps for name, series in run.scalars.items()} == {
        "loss": [2, 4, 6, 8, 10, 12],
        "total_grad_norm": [2, 4, 6, 8, 10, 12],
        "lr": [2, 4, 6, 8, 10, 12],
        "eval_loss": [4, 8, 12],
    }
    logged = [entry["loss"] for entry in training.trainer.state.log_history if "loss" in entry]
    assert run.scalars["loss"].values == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("place", ["the same", "another"])
def test_a_resumed_training_has_the_records_of_one_that_was_not_stopped(place: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "LAMB", "save_strategy": "steps", "save_steps": 5}
    monitor = {"every": 2, "rotation_every": 2}
    whole = LayerMonitorCallback(**monitor)
    Training(tmp_path / "whole", whole, **options).train()
    cut = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="power cut"):
        Training(cut, LayerMonitorCallback(**monitor), StopAt(9), **options).train()
    there = cut if place == "the same" else tmp_path / "there"
    named = {} if place == "the same" else {"resume_from_checkpoint": str(cut / "checkpoint-5")}
    callback = LayerMonitorCallback(**monitor)
    Training(there, callback, **options, **named).train(resume_from_checkpoint=str(cut / "checkpoint-5"))
    (run,) = load(there / "layers")
    assert whole.monitor is not None and callback.monitor is not None
    assert callback.monitor.step == 12
    check_same(run.history, whole.monitor.history)
    check_same(callback.monitor.history, run.history)
    (other,) = load(tmp_path / "whole" / "layers")
    assert {n: s.steps for n, s in run.scalars.items()} == {n: s.steps for n, s in other.scalars.items()}
    assert len(record_lines(there / "layers")) == len(record_lines(tmp_path / "whole" / "layers"))


def test_a_checkpoint_without_state_is_told(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5, "max_steps": 7}
    Training(tmp_path, StopAt(99), **options).train()
    callback = LayerMonitorCallback(every=2)
    training = Training(tmp_path, callback, **options)
    with pytest.warns(UserWarning, match="goes on from step 5, but .*checkpoint-5 has no layerpace.pt"):
        training.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert load(tmp_path / "layers")[0].history.steps == [1, 2]


def test_a_second_training_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        Training(tmp_path, LayerMonitorCallback(every=2), max_steps=2).train()
    assert [load(tmp_path / name)[0].history.steps for name in ("layers", "layers-2")] == [[1, 2], [1, 2]]


def test_other_processes_measure_nothing(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(every=2)
    state = types.SimpleNamespace(is_world_process_zero=False, global_step=0)
    args = types.SimpleNamespace(output_dir=str(tmp_path))
    callback.on_train_begin(args, state, None, model=language_model(), optimizer=None)
    callback.on_log(args, state, None, logs={"loss": 1.0})
    callback.on_save(args, state, None)
    callback.on_train_end(args, state, None)
    assert callback.monitor is None and not list(tmp_path.iterdir())


def test_an_evaluation_after_the_training_is_not_of_it(tmp_path: Path) -> None:
    training = Training(tmp_path, LayerMonitorCallback(every=5)).train()
    lines = record_lines(tmp_path / "layers")
    training.trainer.evaluate()
    assert record_lines(tmp_path / "layers") == lines


def test_copies_and_pickles_are_callbacks() -> None:
    made = LayerMonitorCallback(every=7)
    assert isinstance(made, transformers.TrainerCallback)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is type(made) and twin.every == 7
