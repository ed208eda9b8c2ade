"""PNG pictures of a comparison: scores, relative updates of the layers, and layer rotation.

Methods have the Okabe-Ito colours, which colour-blind readers tell apart, then the same dashed. Layers go
from dark (input) to light (output), so that fifty of them still read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..monitors.plots.style import METHOD_COLOURS, NAMED_LAYERS, as_label, layer_colours, layer_key, new_figure, tidy
from .curves import Curve, MethodRecords, pick
from .progress import score_text
from .records import Folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .compare_plan import Plan
    from .compare_summary import Row

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
SHOWN_STEPS = 4
SHOWN_UPDATES = (1e-9, 1e1)  # relative updates beyond are drawn at the edge
LEGEND_CHARACTERS = 140  # that fit below the scores


def draw(plan: Plan, folder: Folder, rows: Sequence[Row]) -> list[Path]:
    """Write the plots of finished runs to OUT/plots and return their paths."""
    target = folder.path / "plots"
    target.mkdir(exist_ok=True)
    records = [MethodRecords(row.label, [folder.path / "runs" / name for name in row.folders]) for row in rows]
    seeds = plan.request.seeds
    title = f"{plan.task.name}, batch {plan.settings.batch_size}, {seeds} seed{'s' * (seeds != 1)}"
    pictures = {
        "scores.png": scores(records, plan.task.metric_name, plan.target, title),
        "updates.png": updates(records, title),
        "rotation.png": rotation(records, title),
    }
    for name, figure in pictures.items():
        figure.savefig(target / name, dpi=130)
    return [target / name for name in pictures]


def style(number: int) -> dict[str, Any]:
    return {
        "color": METHOD_COLOURS[number % len(METHOD_COLOURS)],
        "linestyle": DASHES[number // len(METHOD_COLOURS) % len(DASHES)],
    }


def scores(records: Sequence[MethodRecords], metric: str, target: float | None, title: str) -> Figure:
    """Test score against steps: as measured, and smoothed from the target up. Bands: all seeds."""
    figure = new_figure(11, 5)
    raw, smooth = figure.subplots(1, 2)
    curves = [record.curve() for record in records]
    window = max(3, max((len(curve.steps) for curve in curves), default=2) // 8)
    for number, (record, curve) in enumerate(zip(records, curves, strict=True)):
        draw_curve(raw, curve, record.title, style(number))
        draw_curve(smooth, curve.smoothed(window), record.title, style(number))
    zoom(smooth, [curve.smoothed(window) for curve in curves], target)
    raw.set_title("as measured", fontsize=10)
    smooth.set_title(f"mean of {window} evaluations, upper part", fontsize=10)
    for axes in (raw, smooth):
        tidy(axes)
        axes.set_xlabel("step")
        axes.set_ylabel(f"test {metric}")
        if metric == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    if target is not None:
        raw.axhline(target, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
        raw.annotate(
            f"target {score_text(target, metric)}", (1, target), xycoords=("axes fraction", "data"),
            xytext=(0, -10), textcoords="offset points", ha="right", fontsize=8, color="0.4",
        )  # fmt: skip
    handles, labels = raw.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(7, LEGEND_CHARACTERS // (longest + 7)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(as_label(title))
    return figure


def draw_curve(axes: Axes, curve: Curve, label: str, how: dict[str, Any]) -> None:
    axes.plot(curve.steps, curve.mean, label=as_label(label), linewidth=1.6, **how)
    axes.fill_between(curve.steps, curve.low, curve.high, color=how["color"], alpha=0.1, linewidth=0)
    if curve.ended and curve.steps:
        axes.plot(curve.steps[-1], curve.mean[-1], marker="x", markersize=8, color=how["color"])


def zoom(axes: Axes, curves: Sequence[Curve], target: float | None) -> None:
    """Show from the target up, where methods differ; without one, from halfway to the best."""
    best = max((max(curve.mean) for curve in curves if curve.mean), default=1.0)
    start = min((curve.mean[0] for curve in curves if curve.mean), default=0.0)
    bottom = target if target is not None and target < best else (start + best) / 2
    if best > bottom:
        axes.set_ylim(bottom, best + 0.08 * (best - bottom))


def grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with one small panel for each of `count` methods, axes shared."""
    columns = min(4, max(count, 1))
    lines = math.ceil(count / columns)
    figure = new_figure(2.9 * columns + 1.3, height * lines + 1.0)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    flat = list(panels.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    for number in range(count):
        tidy(flat[number])
        flat[number].tick_params(labelbottom=number + columns >= count, labelleft=number % columns == 0)
    return figure, flat[:count]


def updates(records: Sequence[MethodRecords], title: str) -> Figure:
    """Relative update of every layer at a few recorded steps, one panel a method (PercentDelta's figure 1)."""
    figure, panels = grid(len(records), 2.4)
    layers = max((record.layers for record in records), key=len, default=[])
    lowest, highest = SHOWN_UPDATES
    for axes, record in zip(panels, records, strict=True):
        table = record.layer_figures("relative_update_l1", logarithmic=True)
        steps = pick(sorted({step for values in table.values() for step in values}), SHOWN_STEPS)
        colours = layer_colours(len(table))
        for group, step in enumerate(steps):
            heights = [min(max(values.get(step, math.nan), lowest), highest) for values in table.values()]
            places = [group + 0.72 * (i / max(len(table) - 1, 1) - 0.5) for i in range(len(table))]
            axes.plot(places, heights, color="0.75", linewidth=0.8, zorder=1)
            axes.scatter(places, heights, c=colours, s=26 if len(table) <= NAMED_LAYERS else 7, zorder=2, linewidths=0)
        axes.set_yscale("log")
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        axes.set_xlim(-0.6, SHOWN_STEPS - 0.4)
        axes.grid(False, axis="x")
        axes.set_title(as_label(record.title), fontsize=10)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel(r"relative update $\|\Delta W\|_1 \, / \, \|W\|_1$", fontsize=10)
    layer_key(figure, panels, layers)
    figure.suptitle(f"How far each layer moves in a step: {as_label(title)}", fontsize=11)
    return figure


def rotation(records: Sequence[MethodRecords], title: str) -> Figure:
    """Cosine distance of every layer to its initial weights, one panel a method."""
    figure, panels = grid(len(records), 2.3)
    layers = max((record.layers for record in records), key=len, default=[])
    for axes, record in zip(panels, records, strict=True):
        table = record.layer_figures("cosine_distance", logarithmic=False)
        thin = 1.6 if len(table) <= NAMED_LAYERS else 0.9
        for values, colour in zip(table.values(), layer_colours(len(table)), strict=True):
            axes.plot(list(values), list(values.values()), color=colour, linewidth=thin)
        axes.set_title(as_label(record.title), fontsize=10)
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("cosine distance to initial weights", fontsize=10)
    layer_key(figure, panels, layers)
    figure.suptitle(f"How far each layer has turned: {as_label(title)}", fontsize=11)
    return figure
