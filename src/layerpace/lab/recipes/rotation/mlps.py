"""Fully connected networks of the layer rotation paper: figures 1 and 7, where one layer is trained alone."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ....monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ...errors import UsageError
from ...tasks import Task
from .. import tasks
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from ..statistics import above, below, difference, interval, percent
from .judging import Part, finding
from .trainings import power

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def one_layer(
    layer: int, data: str = "mnist", per_class: int = 50, test: int | None = None, width: int = 784, depth: int = 10
) -> Task:
    """The 11-layer MLP of figure 1 with one hidden layer to train; all other weights stay as they start.

    Args:
        layer: 0 is the one at the input.
        per_class: training images of each digit.

    Raises:
        UsageError: no such layer.
    """
    if not 0 <= layer < depth:
        raise UsageError(f"layer={layer}: must be 0 to {depth - 1}, a hidden layer")
    task = tasks.images(data, "mlp-deep", per_class=per_class, test=test, options={"width": width, "depth": depth})
    return dataclasses.replace(task, name=f"{task.name}-layer-{layer}", model=frozen_but(task.model, layer))


def frozen_but(make: Callable[[], nn.Module], layer: int) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        model = make()
        weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        for place, weight in enumerate(weights):
            weight.requires_grad_(place == layer)
        return model

    return made


def depth(scale: Scale) -> int:
    return scale.pick(3, 10, 10)


def request(scale: Scale, layer: int, seed: int) -> Request:
    """One layer trained alone, to 100% of the training images."""
    arguments = {
        "layer": layer,
        "data": scale.pick("digits-as-mnist", "mnist", "mnist"),
        "per_class": scale.pick(5, 50, 1000),
        "test": scale.pick(100, 5000, None),
        "width": scale.pick(32, 784, 784),
        "depth": depth(scale),
    }
    steps = scale.pick(8, 500, 8000)
    return {
        "task": f"{__name__}:{tasks.call('one_layer', arguments)}",
        "method": "adam",
        "lr": power(scale.pick(-4, -5.5, -6)),
        "seed": seed,
        "steps": steps,
        "batch_size": scale.pick(25, 50, 128),
        "schedule": "steps:0.1@0.8",
        "eval_every": steps,
        "record_every": steps,
        "eval_size": 100,
        "device": scale.device,
        "threads": scale.pick(1, 1, None),
    }


SETUP_1 = {
    "smoke": "3 hidden layers of 32 units, 50 digits, 8 steps, 2 repeats.",
    "cpu": "10 hidden layers of 784 ReLU units, 500 images of MNIST (50 a class), tested on 5,000; each layer alone "
    "with Adam, 500 steps at batch 50; 5 repeats (paper: 10). The paper does not say how it trained.",
    "paper": "1000 images a class, as in the authors' code; 10 repeats.",
}
CLAIMS_1 = (
    Claim("falls", "figure 1", "Test accuracy falls with the depth of the layer that is trained alone.",
          "slope of test accuracy over the layer's index, repeat by repeat: 95% interval below 0",
          "mostly degrades with depth"),
    Claim("difference", "figure 1", "From the first layer to the last it falls by nearly 20 points.",
          "95% interval of the paired difference of the last to the first layer below -10 points",
          "0.75 to 0.55: nearly 20 points"),
    Claim("train", "figure 1", "Any layer alone suffices for 100% training accuracy.",
          "mean training accuracy of every layer at least 99%", "100%"),
)  # fmt: skip


def plan_1(scale: Scale, records: Records) -> list[Request]:
    return [request(scale, layer, seed) for seed in scale.seeds(2, 5, 10) for layer in range(depth(scale))]


def measure_1(scale: Scale, records: Records) -> Data:
    rows = []
    for layer in range(depth(scale)):
        found = records.of([request(scale, layer, seed) for seed in scale.seeds(2, 5, 10)])
        rows.append({name: [record.result[f"{name}_score"] or 0.0 for record in found] for name in ("test", "train")})
    return {"scale": scale.name, "layers": rows}


def judge_1(data: Data) -> Sequence[Finding]:
    rows = data["layers"]
    places = list(range(len(rows)))
    repeats = list(zip(*(row["test"] for row in rows), strict=True))
    slope = interval([statistics.linear_regression(places, scores).slope for scores in repeats])
    ends = difference(rows[-1]["test"], rows[0]["test"])
    train = [statistics.fmean(row["train"]) for row in rows]
    texts = [
        f"{slope.text(100)} points a layer",
        f"layer 0 {percent(rows[0]['test'])}, layer {places[-1]} {percent(rows[-1]['test'])}: "
        + ends.text(100, " points"),
        f"lowest: layer {train.index(min(train))} with {100 * min(train):.2f}%",
    ]
    enough: Verdict = "holds" if min(train) >= 0.99 else "does not hold"
    verdicts = (below(slope), below(ends, -0.1), enough)
    return [Finding(claim, v, text) for claim, v, text in zip(CLAIMS_1, verdicts, texts, strict=True)]


def draw_1(data: Data) -> Figure:
    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    tidy(axes)
    rows = data["layers"]
    colour = METHOD_COLOURS[0]
    axes.plot([100 * statistics.fmean(row["test"]) for row in rows], "-o", color=colour)
    for place, row in enumerate(rows):
        axes.plot([place] * len(row["test"]), [100 * value for value in row["test"]], ".", color=colour, alpha=0.4)
    lowest = 100 * min(statistics.fmean(row["train"]) for row in rows)
    axes.set_title(
        f"each layer trained alone; training accuracy at least {lowest:.1f}% ({data['scale']} scale)", fontsize=10
    )
    axes.set_xticks(range(len(rows)))
    axes.set_xlabel("index of the trained layer, from the input")
    axes.set_ylabel("test accuracy, %")
    return figure


# Figure 7


EPOCHS_7 = 500  # of the figure's axis
EPOCH = 10_000 // 128  # steps, at paper scale
SETUP_7 = {
    "smoke": SETUP_1["smoke"].replace("3 hidden layers", "The first of 3 hidden layers"),
    "cpu": "The first of 10 hidden layers of 784 ReLU units, trained alone on 500 images of MNIST (50 a class) with "
    "Adam, 500 steps at batch 50: 50 epochs (paper: 500); 3 seeds. Scored on the 500 images.",
    "paper": "The first layer alone on 1000 images a class, as in the authors' code, 500 epochs; 5 seeds. How it was "
    "trained is not known. Scored on 500 of the images.",
}


def request_7(scale: Scale, seed: int) -> Request:
    own = request(scale, 0, seed)
    return {key: value for key, value in own.items() if key not in ("eval_every", "eval_size")} | {
        "steps": EPOCHS_7 * EPOCH if scale.name == "paper" else own["steps"],
        "record_every": scale.pick(4, 25, 200),
        "watch": "feedback",
    }


CLAIMS_7 = (
    Claim("rises", "figure 7", "The first layer's feedback tells the classes apart better as that layer trains alone.",
          "silhouette score at the end minus that at the first step: 95% interval over the seeds above 0",
          "0.05 to 0.30 in 500 epochs"),
)  # fmt: skip


def plan_7(scale: Scale, records: Records) -> list[Request]:
    return [request_7(scale, seed) for seed in scale.seeds(2, 3, 5)]


def measure_7(scale: Scale, records: Records) -> Data:
    found = records.of(plan_7(scale, records))
    return {
        "scale": scale.name,
        "runs": [{"steps": r.result["steps"], "silhouette": r.result["silhouette"]} for r in found],
        "epoch": scale.pick(2, 10, EPOCH),
    }


def judge_7(data: Data) -> Sequence[Finding]:
    known = [[score for score in run["silhouette"] if score is not None] for run in data["runs"]]
    rise = interval([scores[-1] - scores[0] for scores in known])
    first, last = (statistics.fmean(scores[place] for scores in known) for place in (0, -1))
    text = f"{first:.3f} at the first step, {last:.3f} at the end: {rise.text(digits=3)}"
    return [finding(CLAIMS_7[0], [Part(above(rise), text)])]


def draw_7(data: Data) -> Figure:
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    tidy(axes)
    for seed, run in enumerate(data["runs"]):
        scores = [float("nan") if score is None else score for score in run["silhouette"]]
        epochs = [step / data["epoch"] for step in run["steps"]]
        axes.plot(epochs, scores, color=METHOD_COLOURS[seed % len(METHOD_COLOURS)], label=f"seed {seed}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("silhouette score of the first layer's feedback")
    axes.set_title(f"first layer of the MLP trained alone ({data['scale']} scale)", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    return figure


RECIPES = (
    Recipe(
        "rotation-figure-1", "rotation", ("figure 1",), "Test accuracy of a deep MLP with one layer trained alone",
        CLAIMS_1, SETUP_1, plan_1, measure_1, judge_1, draw_1, score="test_score",
    ),
    Recipe(
        "rotation-figure-7", "rotation", ("figure 7",), "How well the first layer's feedback tells the classes apart",
        CLAIMS_7, SETUP_7, plan_7, measure_7, judge_7, draw_7, runner="layerpace.recipes.rotation.watched:run",
        score="test_score",
    ),
)  # fmt: skip
