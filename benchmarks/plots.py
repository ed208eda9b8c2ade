"""Pictures of the sweeps: milliseconds and the ratio to the unit, log-log, a label at the end of each line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from .methods import UNIT

# Okabe and Ito: colours that colour-blind readers tell apart; the markers say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
UNIT_STYLE = {"color": "#000000", "marker": "x", "linestyle": (0, (4, 2))}
LABEL_GAP = 0.055  # of the axis, between labels


def draw(sweeps: Mapping[str, dict[str, Any]], subtitle: str, folder: Path) -> list[Path]:
    """Write NAME.png for each sweep by layers or size, and threads.png for those by threads; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    by_threads = {name: found for name, found in sweeps.items() if found["axis"] == "threads" and found["x"]}
    pictures = {
        f"{name}.png": _pair(found, subtitle) for name, found in sweeps.items() if name not in by_threads and found["x"]
    }
    if by_threads:
        pictures["threads.png"] = _row(by_threads, subtitle)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=130)
    return [folder / name for name in pictures]


def _pair(found: dict[str, Any], subtitle: str) -> Figure:
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, found, "ms", "ms a step")
    _lines(right, found, "ratio", f"ratio to {UNIT}")
    figure.suptitle(f"{found['title']}\n{subtitle}", fontsize=10)
    return figure


def _row(sweeps: Mapping[str, dict[str, Any]], subtitle: str) -> Figure:
    figure = Figure(figsize=(6 * len(sweeps), 4.8), layout="constrained")
    panels = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, found in zip(panels, sweeps.values(), strict=True):
        _lines(axes, found, "ms", "ms a step")
        axes.set_title(found["title"], fontsize=10)
    figure.suptitle(subtitle, fontsize=10)
    return figure


def _lines(axes: Axes, found: dict[str, Any], column: str, label: str) -> None:
    """One line a method over x; quartiles as a band where the column is a time."""
    x, ends = found["x"], {}
    axes.set_xscale("log")
    axes.set_yscale("log")
    number = 0
    for name, rows in found["methods"].items():
        if name == UNIT:
            style: dict[str, Any] = UNIT_STYLE
        else:
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            number += 1
        axes.plot(x, rows[column], linewidth=1.5, markersize=4, **style)
        if column == "ms":
            axes.fill_between(x, rows["q1"], rows["q3"], color=style["color"], alpha=0.15, linewidth=0)
        ends[name] = (rows[column][-1], style["color"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_xlabel(found["axis"])
    axes.set_ylabel(label)
    _ticks(axes, x, found["axis"])
    _label_ends(axes, x[-1], ends)


def _ticks(axes: Axes, x: list[int], axis: str) -> None:
    """Plain numbers; by threads, one tick a point, else the powers of ten."""
    if axis == "threads":
        axes.xaxis.set_major_locator(FixedLocator([float(value) for value in x]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    # Powers of ten alone would be one tick of a narrow range, or none.
    subs = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if high / low < 6 else (1, 2, 5) if high / low < 50 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def _label_ends(axes: Axes, x: int, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names to the right of the lines' ends, pushed apart where they would overlap."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    order = sorted(ends, key=lambda name: ends[name][0])
    heights = [(math.log(ends[name][0]) - low) / (high - low) for name in order]
    for name, end, height in zip(order, heights, spread(heights, LABEL_GAP), strict=True):
        value, colour = ends[name]
        axes.annotate(
            name, (x, value), xytext=(1.04, height), textcoords="axes fraction",
            color=colour, fontsize=9, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.5, "linewidth": 0.7} if height != end else None,
        )  # fmt: skip


def spread(heights: list[float], gap: float) -> list[float]:
    """The ascending heights moved as little as they must be to stand ``gap`` apart: clusters around their means."""
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        while len(clusters) > 1 and _top(clusters[-2], gap) + gap > _bottom(clusters[-1], gap):
            last = clusters.pop()
            clusters[-1] += last
    return [_bottom(cluster, gap) + k * gap for cluster in clusters for k in range(len(cluster))]


def _bottom(cluster: list[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _top(cluster: list[float], gap: float) -> float:
    return sum(cluster) / len(cluster) + gap * (len(cluster) - 1) / 2
