"""PercentDelta, figure 2: the picture. Rows are methods, columns the beginning, the whole run, and that smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..recipe import Data
from .common import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = "#D62728"
GREYS = ("0.3", "0.42", "0.54", "0.66", "0.78")
WINDOW = 0.03  # of the run, either side: what a smoothed point is the mean of
DETAIL = 0.9  # where the accuracy axis of the whole run begins


def draw(data: Data) -> Figure:
    from ....monitors.plots.style import new_figure

    figure = new_figure(12, 14)
    panels = figure.subplots(len(data["rows"]) + 1, 3, sharex="col")
    for axes, (name, row) in zip(panels, data["rows"].items(), strict=False):
        draw_row(axes, name, row)
    draw_best(panels[-1], data)
    steps = data["steps"]
    for axes in panels:
        finish(axes, steps, detail=data["scale"] != "smoke")
    titles = (f"first {steps['early']} steps", "whole run", "whole run, smoothed")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    for axes in panels[-1]:
        axes.set_xlabel("training steps")
    figure.suptitle(
        f"Test accuracy on MNIST ({data['scale']}). Red: each row's best setting by validation, mean and range of its "
        f"seeds; grey: the others, {steps['tuning']} steps, one seed",
        fontsize=10,
    )
    return figure


def draw_row(axes: Sequence[Axes], name: str, row: dict[str, Any]) -> None:
    colours = iter(GREYS)
    for place, setting in enumerate(row["settings"]):
        if place == row["best"]:
            continue
        colour, label = next(colours), setting["label"] + (" (diverged)" if setting["validation"] is None else "")
        axes[0].plot(setting["early"]["step"], setting["early"]["accuracy"], color=colour, lw=1.1, label=label)
        curve = setting["curve"]
        axes[1].plot(curve["step"], curve["accuracy"], color=colour, lw=1.1)
        axes[2].plot(curve["step"], smoothed(curve["step"], curve["accuracy"]), color=colour, lw=1.1)
    draw_seeds(axes, row, BEST, row["settings"][row["best"]]["label"])
    axes[0].set_ylabel(f"{name}\naccuracy")
    axes[0].legend(loc="lower right", fontsize=8, frameon=False)


def draw_best(axes: Sequence[Axes], data: Data) -> None:
    for name, row in data["rows"].items():
        draw_seeds(axes, row, COLOURS[name], f"{name}, {row['settings'][row['best']]['label']}")
    axes[0].set_ylabel("best of each\naccuracy")
    axes[0].legend(loc="lower right", fontsize=8, frameon=False)


def draw_seeds(axes: Sequence[Axes], row: dict[str, Any], colour: str, label: str) -> None:
    """The mean of the seeds, and their range; smoothed, the mean alone."""
    for panel, found in zip(axes[:2], (row["early"], row["whole"]), strict=True):
        panel.plot(found["step"], found["mean"], color=colour, lw=1.4, label=label)
        panel.fill_between(found["step"], found["low"], found["high"], color=colour, alpha=0.18, lw=0)
    whole = row["whole"]
    axes[2].plot(whole["step"], smoothed(whole["step"], whole["mean"]), color=colour, lw=1.4)


def smoothed(steps: Sequence[int], values: Sequence[float]) -> list[float]:
    """The mean of the points within `WINDOW` of the run, as many on either side, so that ends stay where they are."""
    reach = max(1, round(WINDOW * len(steps)))
    found = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)
        part = values[place - near : place + near + 1]
        found.append(sum(part) / len(part))
    return found


def finish(axes: Sequence[Axes], steps: dict[str, int], detail: bool) -> None:
    from ....monitors.plots.style import tidy

    axes[0].set_xlim(0, steps["early"])
    axes[0].set_ylim(0.5 if detail else 0.0, 1.0)
    for panel in axes[1:]:
        panel.set_xlim(0, steps["whole"])
        panel.set_ylim(DETAIL if detail else 0.0, 1.0)
    for panel in axes:
        tidy(panel)
