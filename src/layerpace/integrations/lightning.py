"""A callback for Lightning's Trainer, under either of the library's names."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

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
from layerpace.monitors.quantities import QUANTITIES

if TYPE_CHECKING:
    from layerpace.monitors.monitor import Monitor

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
SETTINGS = (
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
)


@callback_of(LIBRARIES, "Callback", known=("model", "optimizer", "every"))
class LayerMonitor:
    """Watches how fast every layer trains, in a training that Lightning runs.

        Trainer(callbacks=[layerpace.integrations.lightning.LayerMonitor()])

    It is an `lp.Monitor` of the Lightning module and of all its optimizers; automatic and manual optimization,
    gradient accumulation and mixed precision need nothing further. At the recorded steps it logs the scalars that the
    module logs, and the loss that ``training_step`` returns (the mean over accumulated batches), for the report.

    The records are in ``layers`` under ``trainer.log_dir``: ``layerpace report`` that folder. With ``fast_dev_run``,
    and if ``log_dir`` is a URL, they are in memory only, unless ``out`` is given. Lightning clips gradients before the
    optimizer's step: ``grad_norm`` is that of the clipped gradient.

    Checkpoints have the monitor's state, initial weights included, unless ``initial=None``. A training that goes on
    with ``ckpt_path`` goes on with its records: those after the checkpoint are dropped, none is made twice; in a new
    ``log_dir`` it goes on with a copy. A second ``fit`` of the same trainer goes on, too.

    Only the process of rank 0 measures. Where parameters are sharded (ModelParallelStrategy: FSDP2, tensor parallelism)
    all processes measure their parts, the figures are those of whole layers, and rank 0 alone writes them.

    Args:
        every: optimizer steps between records.
        logger: also log the figures of the layers to the trainer's loggers, as "QUANTITY/LAYER".
        **options: those of `lp.Monitor`, such as ``out``, ``sinks``, ``rotation_every``, ``second_moment``.

    Attributes:
        monitor: the `lp.Monitor` of the current or the last ``fit``; None before that, and on other ranks unless
            parameters are sharded.

    Raises:
        ImportError: Lightning is not installed.
        TypeError, ValueError: an unknown option, or ``every`` below 1.
        NotImplementedError: when the training starts, for FSDPStrategy, which is FSDP1 and flattens parameters:
            ModelParallelStrategy with ``fully_shard`` does not.
    """

    def __new__(cls, every: int = 10, *, logger: bool = False, **options: Any) -> LayerMonitor:
        bases = callback_classes(LIBRARIES, "Callback", cls.__name__, "lightning")
        return object.__new__(based_on(cls, bases))

    def __init__(self, every: int = 10, *, logger: bool = False, **options: Any) -> None:
        check_options("LayerMonitor", every, options)
        self.every, self.logger, self.options = every, logger, options
        self.monitor: Monitor | None = None
        self._trainer: Callable[[], Any] = _no_trainer
        self._fitting = self._watching = False
        self._first = True  # whether this process is rank 0
        self._restored: dict[str, Any] | None = None
        self._start_scalars()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "monitor": None, "_watching": False, "_trainer": _no_trainer, "_known": {}}

    def __reduce__(self) -> Any:
        return remake, (own_class(self),), self.__getstate__()

    # -- one training

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called before anything is restored."""
        self._fitting, self._restored = stage == "fit", None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: optimizers exist, weights and their state are restored, the sanity check is over."""
        check_layers("LayerMonitor", pl_module)
        folder = self._folder(trainer)  # asks all ranks
        state, self._restored = self._restored, None
        if state is None and self.monitor is not None and self._trainer() is trainer:
            state = saved_state(self.monitor)
        self._close()
        self._trainer = weakref.ref(trainer)
        self._first = trainer.is_global_zero
        if not self._first and not is_spread(pl_module):
            self.monitor = None
            return
        options = dict(self.options)
        if self.logger:
            options["sinks"] = (*options.get("sinks", ()), LoggerSink(trainer))
        settings = {"trainer": "lightning", **plain({name: getattr(trainer, name, None) for name in SETTINGS})}
        self.monitor = open_monitor(pl_module, trainer.optimizers, self.every, options, folder, state, settings)
        self._watching = True
        self._start_scalars()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what the last epoch's end left."""
        self._log_new(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Close; checkpoints have been written."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close: what has been measured is written."""
        self._close()

    def _close(self) -> None:
        if self.monitor is not None and self._watching:
            self.monitor.close()
        self._watching = False

    def _folder(self, trainer: Any) -> Path | None:
        place = str(trainer.log_dir or trainer.default_root_dir)
        return None if trainer.fast_dev_run or "://" in place else Path(place) / "layers"

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Of the monitor, and where its records are; empty on other ranks."""
        if self._restored is not None:
            return self._restored
        return {} if self.monitor is None or not self._first else saved_state(self.monitor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training starts. A test or a validation of a checkpoint restores it, too: that is nothing."""
        if self._fitting:
            self._restored = dict(state_dict)

    # -- scalars

    def _start_scalars(self) -> None:
        self._seen = 0 if self.monitor is None else self.monitor.step
        self._loss: Any = 0.0  # of the batches since the last step
        self._known: dict[str, tuple[int, Any, float]] = {}  # metrics by name: step, tensor and value

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the loss and the module's scalars if this batch made a recorded step."""
        if self.monitor is None or not self._watching or not self._first:
            return
        first, step = self._seen + 1, self.monitor.step  # without a step, the batch is for the next one
        stepped = step >= first
        if any(number == 1 or number % self.every == 0 for number in range(first, max(step, first) + 1)):
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if isinstance(loss, torch.Tensor) and loss.numel() == 1:
                self._loss = self._loss + loss.detach()
            if stepped:
                self._log_new(trainer, self._loss)
        elif trainer.is_last_batch:
            self._new_metrics(trainer)  # so that the epoch's end logs its own figures alone
        if stepped:
            self._seen, self._loss = step, 0.0

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Note what is known, so that the validation's end logs its own figures alone."""
        self._new_metrics(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the figures of the validation."""
        self._log_new(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Log what the end of the last epoch left: the module's own hooks have run since."""
        self._log_new(trainer)

    def _log_new(self, trainer: Any, loss: Any = None) -> None:
        figures = self._new_metrics(trainer)
        if isinstance(loss, torch.Tensor) and not any("loss" in name for name in figures):
            figures["loss"] = float(loss)
        if self.monitor is not None and figures:
            self.monitor.log(figures)

    def _new_metrics(self, trainer: Any) -> dict[str, float]:
        """The scalars of ``trainer.callback_metrics`` that are new since the last call; it keeps the old ones."""
        if self.monitor is None or not self._watching or not self._first:
            return {}
        step, metrics = self.monitor.step, trainer.callback_metrics
        new = {}
        for name, value in metrics.items():
            # With on_step and on_epoch, NAME is NAME_step at times and NAME_epoch at others.
            if f"{name}_step" in metrics or f"{name}_epoch" in metrics:
                continue
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                continue
            last = self._known.get(name)
            if last is not None and last[1] is value:
                continue
            figure = float(value)
            if last is None or last[0] != step or last[2] != figure:
                new[scalar_name(name)] = figure
            self._known[name] = (step, value, figure)
        return new


class LoggerSink:
    """The figures of the layers for the loggers of a Lightning trainer, which has logged the other scalars itself."""

    def __init__(self, trainer: Any) -> None:
        self._loggers = list(trainer.loggers)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log those of "QUANTITY/LAYER" that were measured."""
        figures = {
            key: value for key, value in values.items() if key.partition("/")[0] in QUANTITIES and value == value
        }
        for logger in self._loggers if figures else ():
            logger.log_metrics(figures, step=step)


def _no_trainer() -> None:
    """A reference to no trainer yet."""
