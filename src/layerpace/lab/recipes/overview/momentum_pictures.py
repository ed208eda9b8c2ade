"""The figure of the recipe overview-momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ....monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Data
from .momentum_runs import BETA, PICTURE, SAME_RATES, VALLEY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 1.9  # of the picture, from its middle


def draw(data: Data) -> Figure:
    """The slide's picture, and beside it the steps at each rate."""
    figure = new_figure(12.5, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    draw_valley(left, data["paths"])
    names = {"heavy_ball 0": "gradient descent", f"heavy_ball {BETA}": "momentum", f"nesterov {BETA}": "Nesterov"}
    for number, (key, name) in enumerate(names.items()):
        steps = [math.nan if value is None else value for value in data["same"][f"same {key}"]]
        right.plot(SAME_RATES, steps, marker="o", color=METHOD_COLOURS[(0, 1, 3)[number]], label=name)
    tidy(right)
    right.set_xscale("log")
    right.set_xticks(SAME_RATES, [f"{lr:g}" for lr in SAME_RATES])
    right.minorticks_off()
    right.set_yscale("log")
    right.set_xlabel("learning rate")
    right.set_ylabel("steps to a hundredth of the loss")
    right.set_title("the same rate, momentum 0.9", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    figure.suptitle("Momentum in a valley: curvature 1 along it, 25 across (momentum)", fontsize=11)
    return figure


def draw_valley(axes: Axes, paths: dict[str, list[list[float]]]) -> None:
    """Contours of the loss, and the paths of `PICTURE`."""
    import numpy as np

    x, y = np.meshgrid(np.linspace(-4.6, 3, 160), np.linspace(-HEIGHT, HEIGHT, 120))
    heights = 0.5 * (VALLEY[0] * x**2 + VALLEY[1] * y**2)
    axes.contour(x, y, heights, levels=[0.3, 1.5, 4, 8, 14, 22, 32], colors="0.8", linewidths=0.8)
    for name, colour in zip(PICTURE, ("#0072B2", "#CC79A7", "#D55E00"), strict=True):
        _, lr, momentum = PICTURE[name]
        said = f"{name}: rate {lr:g}" + (f", {momentum:g}" if momentum else "")
        places = np.array(paths[name])
        outside = (abs(places[:, 1]) > HEIGHT).nonzero()[0]
        if len(outside):  # it has diverged: its next steps would only cover the others
            places = places[: outside[0] + 1]
        axes.plot(places[:, 0], places[:, 1], marker=".", markersize=4, linewidth=1.3, color=colour, label=said)
    axes.plot(0, 0, marker="+", color="black", markersize=10)
    axes.set_xlim(-4.6, 3)
    axes.set_ylim(-HEIGHT, HEIGHT)
    axes.set_xlabel("along the valley")
    axes.set_ylabel("across")
    axes.legend(frameon=True, fontsize=8, loc="lower right")
    axes.set_title("40 steps", fontsize=10)
