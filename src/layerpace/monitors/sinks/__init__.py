"""Places for a monitor's figures.

`JSONL` needs nothing and is what the run's folder has; the others need their library, which is imported when one is
made. Any object with ``log(values, step)`` is a sink, and so is a function of the two: see `Sink`.
"""

from __future__ import annotations

from typing import Any

from layerpace.engine.common.checks import check_choice
from layerpace.monitors.sinks.jsonl import JSONL
from layerpace.monitors.sinks.mlflow import MLflow
from layerpace.monitors.sinks.protocol import Function, Sink, close, flush, log, name_of, settle
from layerpace.monitors.sinks.tensorboard import TensorBoard
from layerpace.monitors.sinks.trackio import Trackio
from layerpace.monitors.sinks.wandb import WandB

__all__ = [
    "JSONL",
    "MLflow",
    "Sink",
    "TensorBoard",
    "Trackio",
    "WandB",
    "close",
    "flush",
    "get",
    "log",
    "name_of",
    "settle",
]

NAMES: dict[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio, "mlflow": MLflow}


def get(sink: Any) -> Sink:
    """The sink of that name with its defaults, or ``sink`` itself if it is one.

    Args:
        sink: "tensorboard", "wandb", "trackio", "mlflow", an object with ``log(values, step)``, a SummaryWriter of
            TensorBoard, or a function of ``(values, step)``.

    Raises:
        ValueError: an unknown name.
        TypeError: none of these; a class is none.
        ImportError: its library is not installed.
    """
    if isinstance(sink, str):
        check_choice("sink", sink, tuple(NAMES))
        made: Sink = NAMES[sink]()
        return made
    if not isinstance(sink, type):
        if callable(getattr(sink, "log", None)):
            found: Sink = sink
            return found
        if callable(getattr(sink, "add_scalar", None)):
            return TensorBoard(writer=sink)
        if callable(sink):
            return Function(sink)
    raise TypeError(
        "a sink is a name or an object with log(values, step), a SummaryWriter, or a function of (values, step), "
        f"got {sink!r}"
    )
