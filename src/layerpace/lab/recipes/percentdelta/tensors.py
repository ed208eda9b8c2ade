"""Section 6.1's three settings: the picture. The test metric in training, at its end, and the tensors' speeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..recipe import Data
from .common import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_COLOUR = "#000000"


def draw(metric: str, title: str, data: Data) -> Figure:
    """
    Args:
        metric: its name, for the axes.
        title: of the setting.
    """
    from ....monitors.plots.style import MARKERS, new_figure, tidy

    figure = new_figure(14, 4.6)
    figure.suptitle(f"{title} ({data['scale']})", x=0.01, ha="left", fontsize=11)
    curves, ends, speeds = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.4))
    names = list(data["methods"])
    tensors = list(data["methods"][names[0]]["updates"])
    for place, (name, found) in enumerate(data["methods"].items()):
        style = {"color": COLOURS.get(name, ROWS_COLOUR), "marker": MARKERS[place]}
        curves.plot(found["steps"], found["curve"], **style, markersize=3, lw=1.2, label=name)
        ends.plot([place] * len(found["test"]), found["test"], **style, ls="", alpha=0.6)
        ends.plot([place - 0.2, place + 0.2], [sum(found["test"]) / len(found["test"])] * 2, color=style["color"], lw=2)
        speeds.plot(range(len(tensors)), [found["updates"][tensor] for tensor in tensors], **style, ls="-", lw=0.8)
    curves.set_xlabel("training steps")
    curves.set_ylabel(f"{metric} on test data")
    curves.legend(frameon=False, fontsize=9)
    rates = [f"{name.replace(', ', chr(10))}\nlr {data['methods'][name]['lr']:g}" for name in names]
    ends.set_xticks(range(len(names)), rates, fontsize=7.5)
    ends.set_xlim(-0.5, len(names) - 0.5)
    ends.set_ylabel(f"{metric} at the end, by seed")
    speeds.set_yscale("log")
    speeds.set_xticks(range(len(tensors)), tensors, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    speeds.set_ylabel(r"relative update $\|\Delta W\|_1 \, / \, \|W\|_1$, median")
    for axes in (curves, ends, speeds):
        tidy(axes)
    return figure
