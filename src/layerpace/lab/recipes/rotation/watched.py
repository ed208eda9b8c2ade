"""A runner of training runs whose layers are watched closer than the lab's: their second moments, or their feedback.

    run(config, folder) -> result

A request has some options of `layerpace.lab.single`, and "watch": "second_moment" (percentiles of each layer's second
moment) or "feedback" (the silhouette score of what the first trained layer gets back, from a pass over the first
`PROBE` training examples, which makes no step). Records are made at step 1 and every `record_every` steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....monitors.monitor import Monitor
from ...batches import Batches, split
from ...errors import UsageError
from ...reproducible import reproducible
from ...schedule import scheduler
from ...single import Training, prepare
from ...tasks import Task

WATCHED = ("second_moment", "feedback")
PROBE = 500
SCORED = 2000  # training examples that the training accuracy is of
PART = 250  # examples that go through the model at once where no gradient is wanted
OWN = ("watch", "runner")  # keys of a config that are not of `layerpace.lab.single`


def run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train.

    Returns:
        status, test_score, train_score; layers: the trained ones; steps, and at each of them either silhouette, a
        score, or second_moment: {"p10", "p50", "p90"} by layer.

    Raises:
        UsageError: "watch" is none of `WATCHED`, or the request is wrong.
    """
    watch = config.get("watch")
    if watch not in WATCHED:
        raise UsageError(f"watch = {watch!r}: choose from {', '.join(WATCHED)}")
    training = prepare({key: value for key, value in config.items() if key not in OWN})
    with reproducible(training.settings.threads):
        return trained(training, watch)


def trained(training: Training, watch: str) -> dict[str, Any]:
    """The loop of `run`."""
    settings, seed, device = training.settings, int(training.config["seed"]), training.settings.device
    task, data = training.task, training.task.data.to(training.settings.device)
    torch.manual_seed(seed)
    model = task.model().to(device)
    images = len(data.input_shape) == 3
    if images:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept, _ = split(len(data.train_inputs), settings.held_out)
    batches = Batches(data, kept, settings.batch_size, seed, task.augment)
    optimizer = training.method.build(
        list(model.named_parameters()),
        training.config["lr"],
        training.method.multipliers(model),
        training.method.roles(model),
    )
    schedule = scheduler(training.config["schedule"], optimizer, settings.steps)
    layers = [name for name, param in model.named_parameters() if param.requires_grad and param.ndim > 1]
    every = settings.record_every
    result: dict[str, Any] = {
        "status": "done",
        "layers": layers,
        "steps": [],
        watch if watch == "second_moment" else "silhouette": [],
    }
    with Monitor(model, optimizer, every, out=None, initial=None, second_moment=watch == "second_moment") as monitor:
        for step in range(settings.steps):
            recorded = step == 0 or (step + 1) % every == 0
            if recorded and watch == "feedback":
                result["silhouette"].append(feedback(model, monitor, data, layers[0]))
            inputs, targets = batches(step)
            if images:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bf16"):
                loss = task.loss(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if schedule is not None:
                schedule.step()
            if recorded:
                result["steps"].append(step + 1)
                if watch == "second_moment":
                    result["second_moment"].append(percentiles(monitor, layers))
    some = kept[:SCORED]
    sets = {"test": (data.test_inputs, data.test_targets), "train": (data.train_inputs[some], data.train_targets[some])}
    for name, (inputs, targets) in sets.items():
        result[f"{name}_score"] = scored(model, task, data.floats, inputs, targets)
    return result


def feedback(model: nn.Module, monitor: Monitor, data: Any, layer: str) -> float | None:
    """The silhouette score of a layer's feedback now; None: it is not defined."""
    inputs, targets = data.floats(data.train_inputs[:PROBE]), data.train_targets[:PROBE]
    with monitor.feedback(targets, [layer]):
        F.cross_entropy(model(inputs), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    monitor.flush()
    score = monitor.latest()[layer]["silhouette"]
    return round(score, 5) if score == score else None


def percentiles(monitor: Monitor, layers: list[str]) -> dict[str, list[float]]:
    """Of the second moment as the last step left it, layer by layer."""
    monitor.flush()
    latest = monitor.latest()
    found = {f"p{at}": [latest[layer][f"second_moment_p{at}"] for layer in layers] for at in (10, 50, 90)}
    return {name: [float(f"{value:.4g}") for value in values] for name, values in found.items()}


@torch.no_grad()
def scored(model: nn.Module, task: Task, floats: Any, inputs: Tensor, targets: Tensor) -> float:
    """Mean of the task's metric."""
    model.eval()
    parts = [
        task.metric(model(floats(some)).float(), wanted)
        for some, wanted in zip(torch.split(inputs, PART), torch.split(targets, PART), strict=True)
    ]
    model.train()
    return float(torch.cat(parts).double().mean())
