"""Places for a monitor's figures.

`JSONL` needs nothing and is what the run's folder has; the others need their library, which is imported when one is
made. Any object with ``log(values, step)`` is a sink: see `Sink`.
"""

from __future__ import annotations

from typing import Any

from layerpace.checks import check_choice
from layerpace.monitors.sinks.jsonl import JSONL
from layerpace.monitors.sinks.mlflow import MLflow
from layerpace.monitors.sinks.protocol import Sink, close, flush, log
from layerpace.monitors.sinks.tensorboard import TensorBoard
from layerpace.monitors.sinks.trackio import Trackio
from layerpace.monitors.sinks.wandb import WandB

__all__ = ["JSONL", "MLflow", "Sink", "TensorBoard", "Trackio", "WandB", "close", "flush", "get", "log"]

NAMES: dict[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio, "mlflow": MLflow}


def get(sink: str | Sink) -> Sink:
    """The sink of that name with its defaults, or ``sink`` itself if it is one.

    Args:
        sink: "tensorboard", "wandb", "trackio", "mlflow", or an object with ``log(values, step)``.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a sink; a class is none.
        ImportError: its library is not installed.
    """
    if isinstance(sink, str):
        check_choice("sink", sink, tuple(NAMES))
        made: Sink = NAMES[sink]()
        return made
    if isinstance(sink, type) or not callable(getattr(sink, "log", None)):
        raise TypeError(f"a sink is a name or an object with log(values, step), got {sink!r}")
    return sink
