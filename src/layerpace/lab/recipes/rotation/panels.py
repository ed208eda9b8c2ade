"""Pictures of the layer rotation recipes: one panel a training, a line a layer from input (dark) to output (light)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....monitors.plots.style import GREY, METHOD_COLOURS, layer_bar, layer_colours, new_figure, tidy
from ..recipe import Data
from ..statistics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {  # of methods, the same in all figures
    "layca": METHOD_COLOURS[0],
    "sgd": METHOD_COLOURS[1],
    "sgd-l2": METHOD_COLOURS[2],
    "adaptive": METHOD_COLOURS[3],
    "adam": METHOD_COLOURS[5],
    "lars": METHOD_COLOURS[6],
}


def canvas(rows: int, columns: int, width: float = 3.0, height: float = 2.5) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels of that many inches each."""
    figure = new_figure(max(6.5, width * columns + 1.0), height * rows + 0.6)
    made = figure.subplots(rows, columns, squeeze=False)
    panels: list[list[Axes]] = [list(row) for row in made]
    for row in panels:
        for axes in row:
            tidy(axes)
    return figure, panels


def turning(axes: Axes, variant: Data, epoch: int, quantity: str = "rotation") -> None:
    """A quantity of every layer against the epoch."""
    curves = variant[quantity]
    layers = curves["layers"]
    epochs = [step / epoch for step in curves["steps"]]
    for colour, values in zip(layer_colours(len(layers)), layers.values(), strict=True):
        axes.plot(epochs, [float("nan") if value is None else value for value in values], color=colour, linewidth=1.2)


def learning_curve(axes: Axes, variant: Data, epoch: int, what: str, colour: str, style: str = "-") -> None:
    """The loss, or an accuracy in percent, against the epoch."""
    shown = variant["learning"]
    scale = 100 if what == "test_score" else 1
    points = [(s / epoch, scale * y) for s, y in zip(shown["step"], shown[what], strict=True) if y is not None]
    axes.plot(
        [x for x, _ in points], [y for _, y in points], style, color=colour, label=variant["title"], linewidth=1.5
    )


def accuracy(variant: Data, reference: Data | None = None) -> str:
    """ "67.2%", or how far below the reference's: "η* - 4.2"; the mean over the seeds, which both have."""
    if reference is None or reference is variant:
        return f"η* = {100 * interval(variant['test']).mean:.1f}%"
    apart = [x - y for x, y in zip(variant["test"], reference["test"], strict=False)]
    return f"η = η* {100 * interval(apart).mean:+.1f}"


def rotation_figure(data: Data, columns: Sequence[str], reference: str = "layca") -> Figure:
    """Layer rotation curves: a row a task, a column a variant, with the accuracy against the reference's."""
    tasks = data["tasks"]
    figure, panels = canvas(len(tasks), len(columns))
    count = 0
    for row, task in zip(panels, tasks, strict=True):
        shown = task["variants"]
        top = highest(task, columns)
        for place, (axes, key) in enumerate(zip(row, columns, strict=True)):
            if key not in shown:
                axes.set_axis_off()
                continue
            variant = shown[key]
            count = max(count, len(variant["rotation"]["layers"]))
            turning(axes, variant, task["epoch"])
            axes.set_ylim(0, top)
            score = accuracy(variant, shown.get(reference))
            train = 100 * interval(variant["train"]).mean
            axes.set_title(
                f"{variant['title']}\nrate {variant['rate']:.3g}; {score}\ntraining {train:.1f}%", fontsize=9
            )
            if place == 0:
                axes.set_ylabel("cosine distance\nto initial weights")
            axes.set_xlabel("epoch")
    titled(figure, data)
    layer_bar(figure, [axes for row in panels for axes in row], count)
    return figure


def highest(task: Data, columns: Sequence[str]) -> float:
    """Where the cosine distances of a row end: at 1, unless all of them stay far below."""
    shown = [task["variants"][key]["rotation"]["layers"] for key in columns if key in task["variants"]]
    values = [value for layers in shown for curve in layers.values() for value in curve if value is not None]
    most = max(values, default=1.0)
    return max(1.05, 1.05 * most) if most > 0.6 else 1.15 * max(most, 1e-3)


def titled(figure: Figure, data: Data) -> None:
    """What was trained, and at which scale, above all panels."""
    figure.suptitle(f"{', '.join(task['title'] for task in data['tasks'])} ({data['scale']} scale)", fontsize=10)


def scores_figure(data: Data, keys: Sequence[str]) -> Figure:
    """Training and test accuracy of each variant, seed by seed: a panel a task."""
    tasks = data["tasks"]
    figure, panels = canvas(1, len(tasks), 4.2, 0.45 * len(keys) + 1.4)
    for axes, task in zip(panels[0], tasks, strict=True):
        shown = [task["variants"][key] for key in keys if key in task["variants"]]
        for place, variant in enumerate(shown):
            for field, colour, marker in (("train", METHOD_COLOURS[1], "s"), ("test", METHOD_COLOURS[0], "o")):
                values = [100 * value for value in variant[field]]
                axes.plot(values, [place] * len(values), marker, color=colour, alpha=0.7, markersize=6)
                middle = interval(values).mean
                above = field == "train"
                axes.annotate(
                    f"{middle:.1f}", (middle, place), (0, 6 if above else -14), textcoords="offset points", ha="center",
                    fontsize=8, color=colour,
                )  # fmt: skip
        axes.set_yticks(range(len(shown)), [variant["title"] for variant in shown], fontsize=9)
        axes.set_ylim(len(shown) - 0.5, -0.7)
        axes.set_xlabel("accuracy, %")
        if len(tasks) > 1:
            axes.set_title(task["title"], fontsize=9)
        axes.axvline(100, color=GREY, linewidth=0.8)
    for field, colour, marker in (("training", METHOD_COLOURS[1], "s"), ("test", METHOD_COLOURS[0], "o")):
        panels[0][0].plot([], [], marker, color=colour, label=field)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    titled(figure, data)
    return figure
