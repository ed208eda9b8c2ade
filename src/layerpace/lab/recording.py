"""What a run records of its layers, and of its scores: a `layerpace.Monitor` in the run's own folder.

So a run can be read by `layerpace report` and `layerpace watch`, while it trains as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from ..monitors.folder import load
from ..monitors.monitor import Monitor
from .records import RunFolder
from .unevenness import matrices, unevenness

# Of the run's config.json; the monitor has the rest itself. Its "dtype" is that of the weights, always float32.
SETTINGS = ("task", "method", "options", "lr", "seed", "steps", "batch_size", "schedule", "eval_every")


def watch(model: nn.Module, optimizer: Optimizer, every: int, folder: RunFolder, resume: bool) -> Monitor:
    """A monitor that records in the run's folder at step 1 and at multiples of `every`.

    The model must have its initial weights, also where `resume` goes on with records that there are: its checkpoint
    does not hold them.
    """
    settings = {key: folder.config[key] for key in SETTINGS if key in folder.config}
    settings["task"] = folder.config.get("name", settings.get("task"))  # of a single run; its "task" is where that is
    settings["autocast"] = "bf16" if folder.config.get("dtype") == "bf16" else None
    return Monitor(model, optimizer, every, out=folder.path, rotation_every=every, resume=resume, settings=settings)


def state_of(monitor: Monitor) -> dict[str, Any]:
    """What a checkpoint needs of it: not the initial weights, which the seed makes again."""
    return {**monitor.state_dict(), "initial": {}}


def scalars(row: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The figures of a line of curve.jsonl, with test_score as test_METRIC; what is None is left out."""
    metric = "score" if metric == "loss" else metric  # test_loss is there already
    found = {key.removesuffix("score") + metric if key.endswith("_score") else key: x for key, x in row.items()}
    return {key: value for key, value in found.items() if key != "step" and value is not None}


def steps_to(curve: Sequence[Mapping[str, Any]], key: str, target: float | None) -> int | None:
    """The first evaluation at or above the target; None: there is none."""
    return next((row["step"] for row in curve if target is not None and row[key] >= target), None)


def summary(folder: RunFolder) -> dict[str, Any]:
    """{"unevenness", "layers": the names of those that it is of}, of what is on disk.

    A monitor's own history has all digits of what it measured itself, and so would differ between a run that went on
    from a checkpoint and one that nothing stopped.
    """
    (run,) = load(folder.path)
    layers = matrices(run.layers)
    return {"unevenness": unevenness(run.history, layers), "layers": layers}
