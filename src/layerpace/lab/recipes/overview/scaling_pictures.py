"""The figure of the recipe batch-size-scaling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Data
from .quadratic import draw_curves
from .scaling_curve import SLACK, perfect
from .scaling_measures import mean_extent, mean_steps, missed, said_extent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(data: Data) -> Figure:
    """Steps against the batch beside the model's prediction, and the best rates (Shallue et al., figures 1 and 8)."""
    figure = new_figure(13, 5.4)
    left, middle, right = figure.subplots(1, 3)
    for axes in (left, right):
        tidy(axes)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch size")
    draw_steps(left, data)
    model = data["model"]
    draw_curves(middle, model["batches"], model["steps"])
    middle.set_title("noisy quadratic model", fontsize=10)
    middle.set_xlabel("batch size (noise of one example = curvature)")
    middle.legend(frameon=False, fontsize=8)
    draw_rates(right, data)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    seeds = max((len(row["steps"]) for rows in data["methods"].values() for row in rows), default=0)
    figure.suptitle(
        f"Steps to a target against the batch size: {data['data']}, MLP, {seeds} seeds (diamonds, and batches below: "
        f"where steps exceed {SLACK:g} times perfect scaling's)",
        fontsize=11,
    )
    return figure


def style(number: int) -> dict[str, Any]:
    dash = "-" if number < len(METHOD_COLOURS) else "--"
    return {"color": METHOD_COLOURS[number % len(METHOD_COLOURS)], "linestyle": dash}


def draw_steps(axes: Axes, data: Data) -> None:
    """Means over seeds, hollow where a seed missed the target; every seed a dot; where perfect scaling ends."""
    for number, (name, rows) in enumerate(data["methods"].items()):
        draw_method(axes, number, f"{name}: to {said_extent(data['extents'][name])}", rows)
        end, first = mean_extent(data["extents"][name]), mean_steps(rows[0]) if rows else None
        if end is not None and first is not None:
            height = SLACK * first * rows[0]["batch"] / end if end < data["batches"][-1] else mean_steps(rows[-1])
            axes.plot([end], [height or math.nan], "D", markersize=7, color=style(number)["color"], alpha=0.6)
    sizes = data["batches"]
    steps = [mean_steps(row) for row in data["methods"].get("momentum", ())]
    if any(value is not None for value in steps):
        bottom = min(s for rows in data["methods"].values() for row in rows for s in row["steps"] if s)
        inside = [(b, value) for b, value in zip(sizes, perfect(sizes, steps), strict=False) if value >= bottom]
        axes.plot(*zip(*inside, strict=True), color="0.5", linestyle=":", linewidth=1.2, label="perfect scaling")
    if any(missed(row) for rows in data["methods"].values() for row in rows):
        axes.plot([], [], "o", color="0.3", fillstyle="none", label="hollow: without seeds that missed the target")
    axes.set_ylabel("steps to the target")
    axes.set_title(f"trained: test accuracy {100 * data['target']:g}%", fontsize=10)


def draw_method(axes: Axes, number: int, label: str, rows: list[dict[str, Any]]) -> None:
    how = style(number)
    points = [(row["batch"], mean_steps(row), missed(row)) for row in rows]
    axes.plot([b for b, _, _ in points], [s or math.nan for _, s, _ in points], linewidth=1.5, label=label, **how)
    for hollow, fill in ((False, "full"), (True, "none")):
        some = [(batch, steps) for batch, steps, gap in points if steps is not None and gap == hollow]
        if some:
            axes.plot(*zip(*some, strict=True), "o", markersize=5, color=how["color"], fillstyle=fill)
    for row in rows:
        known = [value for value in row["steps"] if value is not None]
        axes.plot([row["batch"]] * len(known), known, ".", color=how["color"], markersize=2.5, alpha=0.5)


def draw_rates(axes: Axes, data: Data) -> None:
    """The best rate of each method relative to that at the smallest batch."""
    sizes = data["batches"]
    for number, rows in enumerate(data["methods"].values()):
        rates = [(row["batch"], row["lr"]) for row in rows if row["lr"] and mean_steps(row) is not None]
        if rates:
            relative = [lr / rates[0][1] for _, lr in rates]
            axes.plot([batch for batch, _ in rates], relative, marker="o", markersize=4, **style(number))
    axes.plot(sizes, [batch / sizes[0] for batch in sizes], color="0.5", linestyle=":", linewidth=1.2)
    axes.set_ylabel("best rate / best rate at the smallest batch")
    axes.set_title("best rate (dotted: proportional to the batch)", fontsize=10)
