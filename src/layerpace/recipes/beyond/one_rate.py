"""Recipe one-rate: does one learning rate serve all widths, depths and tasks?

For each method and cell (a width, a depth, a task) a whole grid of rates is run. Held-out examples choose rates, test
scores measure: how far a cell's accuracy falls from that at the cell's own best rate, when the method keeps one rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Record, Records
from ..statistics import above, below, difference
from .one_rate_cells import CLASSES, LAYERWISE, METHODS, SMOKE_METHODS, cells, families, rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAIN = ("SGD", "AdamW")
PAIRED = "paired by cell, each a mean over seeds: 95% interval"
WHERE = "one rate for all"

CLAIMS = (
    *(
        Claim(
            f"all-{other.lower()}", WHERE,
            f"Layer-wise methods lose less accuracy than {other} does when a method keeps one rate.",
            f"loss of the five's mean - loss of {other}, at the rate that is best on average, {PAIRED} below 0",
        )
        for other in PLAIN
    ),
    *(
        Claim(
            f"{name.lower()}-{other.lower()}", WHERE, f"{name} loses less than {other}.",
            f"loss of {name} - loss of {other}, at the rate that is best on average, {PAIRED} below 0",
        )
        for name in LAYERWISE
        for other in PLAIN
    ),
    *(
        Claim(
            f"base-{other.lower()}", WHERE,
            f"Layer-wise methods lose less than {other} does when the rate of the base cell is kept.",
            f"loss of the five's mean - loss of {other}, at the base cell's best rate, {PAIRED} below 0",
        )
        for other in PLAIN
    ),
    Claim(
        "accuracy", WHERE, "With one rate each, layer-wise methods are more accurate than AdamW.",
        f"accuracy of the five's mean - AdamW's, at the rate that is best on average, {PAIRED} above 0",
    ),
)  # fmt: skip


def methods(scale: Scale) -> tuple[str, ...]:
    return SMOKE_METHODS if scale.name == "smoke" else tuple(METHODS)


def request(scale: Scale, method: str, cell: dict[str, Any], lr: float, seed: int) -> Request:
    common = {"schedule": "cosine", "validation": 0.2, "threads": scale.pick(1, 1, None), "device": scale.device}
    ends = {"eval_every": cell["steps"], "record_every": cell["steps"], "eval_size": 100}
    return {**cell, **common, **ends, "method": METHODS[method][0], "lr": lr, "seed": seed}


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    """Cell by cell, so that a worker loads each task once."""
    return [
        request(scale, method, cell, lr, seed)
        for cell in cells(scale).values()
        for method in methods(scale)
        for lr in rates(scale, method)
        for seed in scale.seeds(1, 3, 5)
    ]


def score(record: Record, key: str, classes: int) -> float:
    """A run's final accuracy; that of a guess for one that diverged."""
    return 1 / classes if record.diverged else float(record.result[key])


def measure(scale: Scale, records: Records) -> Data:
    """{"methods": {title: {"lr", "validation", "test", "own", "average", "base"}}, "cells": names, "seeds"}.

    ``validation`` and ``test`` hold, cell by cell and rate by rate, means over seeds. ``own`` holds the place in ``lr``
    of each cell's best rate, ``average`` that of the best one on average over cells, ``base`` that of the base cell's.
    """
    seeds = scale.seeds(1, 3, 5)
    found: dict[str, Any] = {}
    for method in methods(scale):
        grid = rates(scale, method)
        table: dict[str, list[list[float]]] = {"validation": [], "test": []}
        for name, cell in cells(scale).items():
            runs_of = [[records[request(scale, method, cell, lr, seed)] for seed in seeds] for lr in grid]
            for key, rows in table.items():
                classes = CLASSES.get(name, 10)
                row = [statistics.fmean(score(r, f"{key}_score", classes) for r in of) for of in runs_of]
                rows.append([round(value, 4) for value in row])
        own = [row.index(max(row)) for row in table["validation"]]
        averages = [statistics.fmean(column) for column in zip(*table["validation"], strict=True)]
        best = averages.index(max(averages))
        found[method] = {"lr": grid, **table, "own": own, "average": best, "base": own[0]}
    return {"methods": found, "cells": list(cells(scale)), "seeds": len(seeds)}


def losses(data: Data, method: str, kept: str) -> list[float]:
    """Test accuracy at each cell's own best rate minus that at the kept one ("average" or "base")."""
    found = data["methods"][method]
    return [row[own] - row[found[kept]] for row, own in zip(found["test"], found["own"], strict=True)]


def kept_scores(data: Data, method: str) -> list[float]:
    """Test accuracy of each cell at the rate that is best on average."""
    found = data["methods"][method]
    return [row[found["average"]] for row in found["test"]]


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def judge(data: Data) -> list[Finding]:
    there = [name for name in LAYERWISE if name in data["methods"]]
    titles = {name.lower(): name for name in (*LAYERWISE, *PLAIN)}
    findings = []
    for claim in CLAIMS:
        if claim.key == "accuracy":
            gain = difference(mean_of([kept_scores(data, name) for name in there]), kept_scores(data, "AdamW"))
            findings.append(Finding(claim, above(gain), f"{gain.text(100)} points"))
            continue
        first, other = claim.key.split("-")
        kept = "base" if first == "base" else "average"
        some = there if first in ("all", "base") else [titles[first]]
        if not set(some) <= set(there):
            findings.append(Finding(claim, "not decided", "not run at this scale"))
            continue
        ours = mean_of([losses(data, name, kept) for name in some])
        theirs = losses(data, titles[other], kept)
        found = difference(ours, theirs)
        means = f"{100 * statistics.fmean(ours):.2f} against {100 * statistics.fmean(theirs):.2f}"
        findings.append(Finding(claim, below(found), f"{means} points: {found.text(100)}"))
    return findings


def draw(data: Data) -> Figure:
    """The losses along widths, depths and tasks, their means, and how far the best rate wanders."""
    figure = new_figure(13, 7.6)
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    names = data["cells"]
    panels: Any = top.subplots(1, 3, sharey=True)
    for axes, (family, members) in zip(panels, families(names).items(), strict=True):
        for number, method in enumerate(data["methods"]):
            values = losses(data, method, "average")
            line = [100 * values[names.index(name)] for name in members]
            colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
            dash = "--" if method in PLAIN else "-"
            axes.plot(line, marker="o", markersize=4, color=colour, linestyle=dash, linewidth=1.5, label=method)
        labels = [label(family, name) for name in members]
        axes.set_xticks(range(len(members)), labels, fontsize=8, rotation=20 if family == "task" else 0)
        axes.set_title(family, fontsize=10)
        axes.axhline(0, color="0.5", linewidth=0.8)
        tidy(axes)
    panels[0].set_ylabel("accuracy lost by keeping one rate, points")
    means, spread = bottom.subplots(1, 2)
    draw_means(means, data)
    draw_spread(spread, data)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    seeds = data["seeds"]
    figure.suptitle(f"One rate for {len(names)} cells, {seeds} seed{'s' * (seeds != 1)} each", fontsize=11)
    return figure


def label(family: str, name: str) -> str:
    """Of a cell on the axis of its family."""
    if name == "base":
        return {"width": "x1", "depth": "4", "task": "mnist-mlp"}[family]
    return name.removeprefix(f"{family} ")


def draw_means(axes: Axes, data: Data) -> None:
    """Mean loss of each method for both choices of its one rate, and its accuracy at the first."""
    names = list(data["methods"])
    for kept, shift, colour in (("average", -0.2, METHOD_COLOURS[0]), ("base", 0.2, METHOD_COLOURS[5])):
        heights = [100 * statistics.fmean(losses(data, name, kept)) for name in names]
        places = [place + shift for place in range(len(names))]
        said = "best on average" if kept == "average" else "best in the base cell"
        axes.bar(places, heights, 0.38, color=colour, label=f"the rate that is {said}")
    kept_at = [f"{name}\n{100 * statistics.fmean(kept_scores(data, name)):.1f}%" for name in names]
    axes.set_xticks(range(len(names)), kept_at, fontsize=8)
    axes.set_ylabel("mean loss, points")
    axes.set_title("mean over cells (below: accuracy at the rate that is best on average)", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)


def draw_spread(axes: Axes, data: Data) -> None:
    """The best rate of every cell relative to the one that is best on average."""
    for number, method in enumerate(data["methods"].values()):
        own = [place - method["average"] for place in method["own"]]
        for place in sorted(set(own)):
            size = 30 * own.count(place)
            axes.scatter([number], [3.0**place], s=size, color=METHOD_COLOURS[number % len(METHOD_COLOURS)], alpha=0.7)
    axes.set_yscale("log", base=3)
    axes.set_xticks(range(len(data["methods"])), list(data["methods"]), fontsize=8)
    axes.set_ylabel("cell's best rate / one rate")
    axes.set_title("where the best rate of each cell lies (area: cells)", fontsize=10)
    tidy(axes)


RECIPES = (
    Recipe(
        name="one-rate",
        paper="beyond",
        shows=("one rate for widths x1/4 to x4, depths 4 to 32, five tasks",),
        title="Does one learning rate serve all?",
        claims=CLAIMS,
        setup={
            "smoke": "Digits and spirals, 4 cells, 4 methods, 2 rates, 1 seed, 6 steps.",
            "cpu": "Base: 3000 MNIST images, 4 hidden layers of 64 units, 250 steps of 64. Widths 16 to 256, depths 4 "
            "to 32; further tasks: spirals, digits-cnn, percentdelta-cnn (60 steps of 32, bf16) and c10-cnn1-small "
            "on 3000 images (80 steps of 32, bf16). 7 rates in factors of 3 (SGD: 8), 3 seeds, cosine schedule, a "
            "fifth held out for choosing rates. SGD and LARS have momentum 0.9, other options are the lab's defaults. "
            "A run that diverges counts as guessing.",
            "paper": "All data, base width 256, 2000 steps, 5 seeds.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
    ),
)
