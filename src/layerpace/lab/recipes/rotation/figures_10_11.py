"""Figures 10 and 11 of the layer rotation paper: what weight decay does to each layer, and how Adam's second moments
differ between layers and within them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ....monitors.plots.style import METHOD_COLOURS, layer_bar
from ...schedule import Schedule
from .. import tasks
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Record, Records
from ..statistics import above, below, interval
from .curves import SETUP
from .family import curves, plan, table
from .judging import Part, compared, finding
from .panels import canvas, titled, turning
from .trainings import CNN1, SMALL, TOY, power, settings
from .variants import SGD, SGD_L2

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figure 10

QUANTITIES = {
    "rotation_angle": "angle of a step",
    "grad_norm": "gradient norm",
    "weight_norm": "weight norm",
}
BOTH = (SGD, SGD_L2)


def before_drop(record: Record, quantity: str) -> list[tuple[float, float]]:
    """(value after the first tenth of the steps, value when the learning rate first drops) of each layer."""
    steps = record.request["steps"]
    drop = (*Schedule.of(record.request["schedule"]).shares, 1.0)[0] * steps
    found = []
    for layer in record.layers:
        at, values = record.series(quantity, layer)
        within = [
            (step, value) for step, value in zip(at, values, strict=True) if step <= drop and math.isfinite(value)
        ]
        early = [value for step, value in within if step >= 0.1 * steps] or [value for _, value in within]
        if early and early[0] > 0 and within[-1][1] > 0:
            found.append((early[0], within[-1][1]))
    return found


def kept(record: Record) -> float:
    """log10 of how a step's angle changes from the first tenth of the steps to the first drop: mean of the layers."""
    changes = [math.log10(late / early) for early, late in before_drop(record, "rotation_angle")]
    return round(math.fsum(changes) / max(len(changes), 1), 5)


def size(record: Record, quantity: str) -> float:
    """log10 of a norm at the first drop of the rate: mean of the layers."""
    values = [math.log10(late) for _, late in before_drop(record, quantity)]
    return round(math.fsum(values) / max(len(values), 1), 5)


def plan_10(scale: Scale, records: Records) -> list[Request]:
    return plan(scale, records, settings(scale, 3), BOTH)


def measure_10(scale: Scale, records: Records) -> Data:
    return table(
        scale, records, settings(scale, 3), BOTH,
        first={name: partial(curves, quantity=name) for name in QUANTITIES},
        each={
            "kept": kept,
            "gradients": partial(size, quantity="grad_norm"),
            "weights": partial(size, quantity="weight_norm"),
        },
    )  # fmt: skip


ANGLE = " The angle is that of the last step of each epoch; the paper's row 1 is cosine distance over an epoch."
WHEN = "when the learning rate first drops, mean of the layers' log10"
CLAIMS_10 = (
    Claim("kept", "figure 10", "Weight decay keeps rotation rates high in the course of training.",
          "log10 of a step's angle when the rate first drops over that after a tenth of the steps, mean of the layers: "
          "95% interval of the paired difference above 0, on every task",
          "C10-CNN1 from epoch 10 to 80: about constant with it, without it down by a factor of 10^3 in cosine "
          "distance an epoch, which is about 10^1.5 in angle"),
    Claim("gradients", "figure 10", "With it gradients stay larger.",
          f"gradient norm {WHEN}: 95% interval of the paired difference above 0, on every task", "by decades"),
    Claim("weights", "figure 10", "With it weights are smaller.",
          f"weight norm {WHEN}: 95% interval of the paired difference below 0, on every task"),
)  # fmt: skip


def judge_10(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "sgd-l2", "sgd", above, "kept", points=False),
        compared(data, "sgd-l2", "sgd", above, "gradients", points=False),
        compared(data, "sgd-l2", "sgd", below, "weights", points=False),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_10, parts, strict=True)]


def draw_10(data: Data) -> Figure:
    """A row a quantity; columns are tasks, each with L2 and without."""
    columns = [(task, key) for task in data["tasks"] for key in ("sgd-l2", "sgd")]
    figure, panels = canvas(len(QUANTITIES), len(columns), 3.4, 2.2)
    for row, (quantity, name) in zip(panels, QUANTITIES.items(), strict=True):
        for axes, (task, key) in zip(row, columns, strict=True):
            variant = task["variants"][key]
            turning(axes, variant, task["epoch"], quantity)
            axes.set_yscale("log")
            axes.set_title(variant["title"] if axes in panels[0] else "", fontsize=9)
        row[0].set_ylabel(name)
        share_y(row)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    count = max(len(task["variants"][key]["weight_norm"]["layers"]) for task, key in columns)
    layer_bar(figure, [axes for row in panels for axes in row], count)
    titled(figure, data)
    return figure


def share_y(row: Sequence[Axes]) -> None:
    """The same limits for all panels of a row."""
    limits = [axes.get_ylim() for axes in row]
    for axes in row:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


# Figure 11


def requests_11(scale: Scale) -> list[Request]:
    """Adam at its rate in the paper, without the end of the training, where nothing is shown."""
    setting = scale.pick(TOY, SMALL, CNN1)
    epochs = scale.pick(3, 3, 50)
    epoch = setting.epoch()
    return [
        {
            "task": tasks.reference("images", **setting.task), "method": "adam", "lr": power(-5), "seed": seed,
            "steps": epochs * epoch, "batch_size": setting.batch, "schedule": "constant", "dtype": setting.dtype,
            "validation": 0.1, "record_every": epoch, "device": scale.device, "threads": scale.pick(1, 1, None),
            "watch": "second_moment",
        }
        for seed in scale.seeds(2, 3, 3)
    ]  # fmt: skip


def plan_11(scale: Scale, records: Records) -> list[Request]:
    return requests_11(scale)


def measure_11(scale: Scale, records: Records) -> Data:
    setting = scale.pick(TOY, SMALL, CNN1)
    epochs = scale.pick((1, 2, 3), (1, 2, 3), (1, 10, 50))
    found = records.of(requests_11(scale))
    rows = []
    for record in found:
        at = {step: place for place, step in enumerate(record.result["steps"])}
        rows.append([record.result["second_moment"][at[epoch * setting.epoch()]] for epoch in epochs])
    layers = [layer.removesuffix(".weight") for layer in found[0].layers]
    return {
        "scale": scale.name, "tasks": [{"title": setting.title}], "epochs": list(epochs), "layers": layers,
        "runs": rows,
    }  # fmt: skip


CLAIMS_11 = (
    Claim("between", "figure 11", "Adam's second moments vary much more between layers than within them.",
          "at every epoch shown: decades between the 10th and the 90th percentile of the layers' medians, minus "
          "the same within a layer (median of the layers): 95% interval over the seeds above 1",
          "medians lie decades apart, percentiles of a layer close together"),
)  # fmt: skip


def decades(low: float, high: float) -> float:
    tiny = 1e-30  # a moment that is exactly zero
    return math.log10(max(high, tiny) / max(low, tiny))


def spans(moments: Data) -> tuple[float, float]:
    """Decades between layers, and within them."""
    within = sorted(decades(low, high) for low, high in zip(moments["p10"], moments["p90"], strict=True))
    medians = sorted(moments["p50"])
    last = len(medians) - 1
    return decades(medians[round(0.1 * last)], medians[round(0.9 * last)]), within[len(within) // 2]


def judge_11(data: Data) -> Sequence[Finding]:
    parts = []
    for place, epoch in enumerate(data["epochs"]):
        found = [spans(run[place]) for run in data["runs"]]
        gap = interval([between - within for between, within in found])
        between, within = (math.fsum(values) / len(found) for values in zip(*found, strict=True))
        text = f"epoch {epoch}: {between:.2f} decades between layers, {within:.2f} within: {gap.text()}"
        parts.append(Part(above(gap, 1.0), text))
    return [finding(CLAIMS_11[0], parts)]


def draw_11(data: Data) -> Figure:
    figure, panels = canvas(1, len(data["epochs"]), 3.6, 3.0)
    for axes, epoch, moments in zip(panels[0], data["epochs"], data["runs"][0], strict=True):
        places = range(len(data["layers"]))
        for name, colour, marker in zip(("p90", "p50", "p10"), METHOD_COLOURS, ("^", "o", "v"), strict=False):
            axes.plot(places, moments[name], marker, color=colour, label=f"{name[1:]}th percentile", markersize=5)
        axes.vlines(places, moments["p10"], moments["p90"], color="0.7", linewidth=1, zorder=0)
        axes.set_yscale("log")
        axes.set_title(f"epoch {epoch}", fontsize=9)
        axes.set_xlabel("layer, from the input")
    share_y(panels[0])
    panels[0][0].set_ylabel("second moment")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    titled(figure, data)
    return figure


RECIPES = (
    Recipe(
        "rotation-figure-10", "rotation", ("figure 10",), "What weight decay does to rotation, gradients and weights",
        CLAIMS_10,
        {**SETUP, "cpu": SETUP["cpu"] + ANGLE, "paper": SETUP["paper"] + ANGLE},
        plan_10, measure_10, judge_10, draw_10,
    ),
    Recipe(
        "rotation-figure-11", "rotation", ("figure 11",), "Adam's second moments, layer by layer", CLAIMS_11,
        {
            "smoke": SETUP["smoke"],
            "cpu": "As figure 5's Adam at 3^-5, but 3 epochs at a constant rate; 3 seeds.",
            "paper": "C10-CNN1, Adam at 3^-5, epochs 1, 10 and 50; 3 seeds.",
        },
        plan_11, measure_11, judge_11, draw_11, runner="layerpace.recipes.rotation.watched:run",
        score="test_score",
    ),
)  # fmt: skip
