"""The figure of the recipe one-rate."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Data
from .one_rate_cells import LAYERWISE, families
from .one_rate_runs import by_seed, counted, kept_scores, losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(data: Data) -> Figure:
    """The losses along widths, depths and tasks, their means, and how far the best rate wanders."""
    figure = new_figure(13, 7.6)
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    names = data["cells"]
    panels: Any = top.subplots(1, 3, sharey=True)
    for axes, (family, members) in zip(panels, families(names).items(), strict=True):
        draw_family(axes, data, family, members)
    panels[0].set_ylabel("accuracy lost by keeping one rate, points")
    means, spread = bottom.subplots(1, 2)
    draw_means(means, data)
    draw_spread(spread, data)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    seeds, cells = data["seeds"], len(counted(data, names))
    figure.suptitle(f"One rate for {cells} cells, {seeds} seed{'s' * (seeds != 1)} each", fontsize=11)
    return figure


def draw_family(axes: Axes, data: Data, family: str, members: list[str]) -> None:
    """A line a method; extra cells stand apart."""
    names = data["cells"]
    inner = [name for name in members if name not in data["extra"]]
    extra = [name for name in members if name in data["extra"]]
    for number, method in enumerate(data["methods"]):
        values = [100 * statistics.fmean(of) for of in losses(data, method, "average")]
        how: dict[str, Any] = {"color": METHOD_COLOURS[number % len(METHOD_COLOURS)], "marker": "o", "markersize": 4}
        dash = "-" if method in LAYERWISE else "--"
        line = [values[names.index(name)] for name in inner]
        axes.plot(line, linestyle=dash, linewidth=1.5, label=method, **how)
        apart = [values[names.index(name)] for name in extra]
        axes.plot(range(len(inner), len(members)), apart, linestyle="", **how)
    labels = [label(family, name, name in extra) for name in (*inner, *extra)]
    axes.set_xticks(range(len(members)), labels, fontsize=8, rotation=20 if family == "task" else 0)
    axes.set_title(family, fontsize=10)
    axes.axhline(0, color="0.5", linewidth=0.8)
    tidy(axes)


def label(family: str, name: str, extra: bool = False) -> str:
    """Of a cell on the axis of its family."""
    if name == "base":
        return {"width": "x1", "depth": "4", "task": "mnist-mlp"}[family]
    return f"{name}\n(badly scaled,\nnot counted)" if extra else name.removeprefix(f"{family} ")


def draw_means(axes: Axes, data: Data) -> None:
    """Mean loss of each method for both choices of its one rate, and its accuracy at the first."""
    names = list(data["methods"])
    for kept, shift, colour in (("average", -0.2, METHOD_COLOURS[0]), ("base", 0.2, METHOD_COLOURS[5])):
        heights = [100 * statistics.fmean(by_seed(counted(data, losses(data, name, kept), kept))) for name in names]
        places = [place + shift for place in range(len(names))]
        said = "best on average" if kept == "average" else "best in the base cell (over the others)"
        axes.bar(places, heights, 0.38, color=colour, label=f"the rate that is {said}")
    kept_at = {name: statistics.fmean(by_seed(counted(data, kept_scores(data, name)))) for name in names}
    axes.set_xticks(range(len(names)), [f"{name}\n{100 * at:.1f}%" for name, at in kept_at.items()], fontsize=8)
    axes.set_ylabel("mean loss, points")
    axes.set_title("mean over cells (below: accuracy at the rate that is best on average)", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)


def draw_spread(axes: Axes, data: Data) -> None:
    """The best rate of every cell relative to the one that is best on average, and how many are ends of the grid."""
    for number, method in enumerate(data["methods"].values()):
        own = [place - method["average"] for place in method["own"]]
        for place in sorted(set(own)):
            size = 30 * own.count(place)
            axes.scatter([number], [3.0**place], s=size, color=METHOD_COLOURS[number % len(METHOD_COLOURS)], alpha=0.7)
    axes.set_yscale("log", base=3)
    said = [f"{name}\n{len(method['at_end'])} at an end" for name, method in data["methods"].items()]
    axes.set_xticks(range(len(said)), said, fontsize=8)
    axes.set_ylabel("cell's best rate / one rate")
    axes.set_title("where the best rate of each cell lies (area: cells; below: at an end of the grid)", fontsize=10)
    tidy(axes)
