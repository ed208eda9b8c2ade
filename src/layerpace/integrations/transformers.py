"""A callback for the Trainer of transformers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from layerpace.engine.common.files import load_saved
from layerpace.integrations.attach import (
    based_on,
    callback_classes,
    callback_of,
    check_layers,
    check_options,
    is_spread,
    open_monitor,
    own_class,
    plain,
    remake,
    saved_state,
    scalar_name,
)

if TYPE_CHECKING:
    from layerpace.monitors.monitor import Monitor

STATE = "layerpace.pt"
SETTINGS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
)
# What the Trainer logs beside losses and scores: the clock, counters and, at the end, a summary.
BOOKKEEPING = ("epoch", "total_flos", "train_loss", "num_input_tokens_seen")
CLOCK = ("_runtime", "_per_second")
# Layers have quantities of these names.
NAMES = {"learning_rate": "lr", "grad_norm": "total_grad_norm"}


@callback_of(("transformers",), "TrainerCallback", known=("model", "optimizer", "every"))
class LayerMonitorCallback:
    """Watches how fast every layer trains, in a training that transformers' Trainer runs.

        Trainer(..., callbacks=[layerpace.integrations.transformers.LayerMonitorCallback()])

    It is an `lp.Monitor` of the Trainer's model and of the optimizer beneath accelerate's wrapper. A record is made in
    ``optimizer.step``, before gradients are cleared; with gradient accumulation that is once per accumulated batch.
    What the Trainer logs (loss, learning rate, the figures of an evaluation) is recorded, too, for the report.

    The records are in ``layers`` under ``args.output_dir``: ``layerpace report`` that folder. The Trainer clips
    gradients before the optimizer's step (``max_grad_norm=1.0`` unless told otherwise): a layer's ``grad_norm`` is that
    of the clipped gradient; the scalar ``total_grad_norm`` is the Trainer's own, of all gradients before clipping. The
    Trainer tells no callback of an exception: what was measured in the last seconds before one may not be written.

    Only the first process measures. Where parameters are sharded (FSDP2: ``fsdp_config={"version": 2}``, or tensor
    parallelism) all processes measure their parts, the figures are those of whole layers, and the first alone writes.

    Each checkpoint gets a file ``layerpace.pt`` with the monitor's state, initial weights included, unless
    ``initial=None``. A training that goes on with ``resume_from_checkpoint`` goes on with its records: those after the
    checkpoint are dropped, none is made twice. The checkpoint is looked for in ``args.output_dir``, where the Trainer
    puts it; a Trainer does not tell callbacks of another place, so name it in ``args.resume_from_checkpoint``, too.

    Args:
        every: optimizer steps between records.
        **options: those of `lp.Monitor`, such as ``out``, ``sinks``, ``rotation_every``, ``second_moment``.

    Attributes:
        monitor: the `lp.Monitor` of the current or the last training; None before that, and in other processes unless
            parameters are sharded.

    Raises:
        ImportError: transformers is not installed.
        TypeError, ValueError: an unknown option, or ``every`` below 1.
        NotImplementedError: when the training starts, for FSDP1, which flattens parameters.
    """

    def __new__(cls, every: int = 10, **options: Any) -> LayerMonitorCallback:
        bases = callback_classes(("transformers",), "TrainerCallback", cls.__name__, "transformers")
        return object.__new__(based_on(cls, bases))

    def __init__(self, every: int = 10, **options: Any) -> None:
        check_options("LayerMonitorCallback", every, options)
        self.every, self.options = every, options
        self.monitor: Monitor | None = None
        self._watching = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "monitor": None, "_watching": False}

    def __reduce__(self) -> Any:
        return remake, (own_class(self),), self.__getstate__()

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Attach: the optimizer exists, and both it and the model have what a checkpoint had."""
        check_layers("LayerMonitorCallback", model)
        self._close()  # a Trainer that looks for a batch size that fits begins several times
        first = state.is_world_process_zero
        if not first and not is_spread(model):
            self.monitor = None
            return
        saved = _load(args, state.global_step) if first and state.global_step > 0 else None
        settings = {"trainer": "transformers", **plain({name: getattr(args, name, None) for name in SETTINGS})}
        folder = Path(args.output_dir) / "layers"
        self.monitor = open_monitor(model, optimizer, self.every, self.options, folder, saved, settings)
        self._watching = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Record the scalars that the Trainer logs while it trains."""
        figures = {
            NAMES.get(name) or scalar_name(name): float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, (int, float)) and name not in BOOKKEEPING and not name.endswith(CLOCK)
        }
        if self.monitor is not None and self._watching and state.is_world_process_zero and figures:
            self.monitor.log(figures)
            self.monitor.flush()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the monitor's state into the checkpoint that the Trainer has just written."""
        checkpoint = _checkpoint(args, state.global_step)
        if self.monitor is None or not state.is_world_process_zero:
            return
        if not checkpoint.is_dir():  # a search over settings saves elsewhere
            return
        self.monitor.flush()
        aside = checkpoint / f"{STATE}.part"
        torch.save(saved_state(self.monitor), aside)
        os.replace(aside, checkpoint / STATE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close."""
        self._close()

    def _close(self) -> None:
        if self.monitor is not None and self._watching:
            self.monitor.close()
        self._watching = False


def _checkpoint(args: Any, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def _load(args: Any, step: int) -> dict[str, Any] | None:
    """The state in the checkpoint that the Trainer goes on from; None, and a warning, if there is none."""
    named = args.resume_from_checkpoint
    places = [Path(named)] if isinstance(named, str) and Path(named).is_dir() else []
    for place in (*places, _checkpoint(args, step)):
        if (place / STATE).exists():
            state: dict[str, Any] = load_saved(place / STATE)
            return state
    warnings.warn(
        f"the training goes on from step {step}, but {_checkpoint(args, step)} has no {STATE}: records begin anew; "
        "if the checkpoint is elsewhere, name it in args.resume_from_checkpoint, too",
        stacklevel=2,
    )
    return None
