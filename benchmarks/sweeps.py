"""Part "sweeps": how the time of a step grows with the number of layers, their size and the threads."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from . import memory
from .measure import Effort, Race
from .methods import BY_NAME, UNIT
from .progress import Bars
from .shapes import SETS, Shapes

SWEPT = ("LAMB", "PercentDelta", "Layca", "Adam", UNIT)
LAYER = (40, 25)  # 1000 entries
LAYER_COUNTS = (10, 30, 100, 300, 1000, 3000, 10_000, 20_000)
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8)
THREAD_SETS = ("S1", "S4")


@dataclass(frozen=True)
class Point:
    x: int
    shapes: Shapes
    threads: int


@dataclass(frozen=True)
class Sweep:
    title: str
    axis: str
    points: tuple[Point, ...]


def sweeps(threads: int, quick: bool) -> dict[str, Sweep]:
    """The sweeps, by name; in ``quick`` ones few and small points stand for them."""
    counts = LAYER_COUNTS[:3] if quick else LAYER_COUNTS
    sizes = SIZES[:3] if quick else SIZES
    widths = tuple(n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(threads, os.cpu_count() or 1))
    found = {
        "layers": Sweep("Layers of 1000 entries", "layers", tuple(Point(n, [LAYER] * n, threads) for n in counts)),
        "size": Sweep("One tensor", "entries", tuple(Point(n, [(n // 100, 100)], threads) for n in sizes)),
    }
    for key in THREAD_SETS:
        chosen = SETS[key].small() if quick else SETS[key]
        found[f"threads-{key}"] = Sweep(
            f"{key} {chosen.title}", "threads", tuple(Point(n, chosen.shapes, n) for n in widths)
        )
    return found


def measure_sweep(sweep: Sweep, effort: Effort, budget: int, bars: Bars) -> dict[str, Any]:
    """Figures of one sweep, whose points are measured one after the other, all methods together at each.

    Returns:
        "x": the points; "methods": name -> {"ms", "q1", "q3", "ratio"}, lists along x; "skipped": what did not fit
        into memory, and why.
    """
    methods = [BY_NAME[name] for name in SWEPT]
    columns = ("ms", "q1", "q3", "ratio", "ratio_by_round")
    result: dict[str, Any] = {
        "title": sweep.title, "axis": sweep.axis, "x": [], "skipped": {},
        "methods": {name: {column: [] for column in columns} for name in SWEPT},
    }  # fmt: skip
    bar = bars.add(f"{sweep.title}, by {sweep.axis}", len(sweep.points))
    before = torch.get_num_threads()
    try:
        for point in sweep.points:
            entries = sum(torch.Size(shape).numel() for shape in point.shapes)
            if memory.needed(methods, entries) > budget:
                gib = memory.needed(methods, entries) / 2**30
                result["skipped"][str(point.x)] = f"takes {gib:.1f} GiB, more than the budget"
                continue
            torch.set_num_threads(point.threads)
            race = Race(point.shapes, methods)
            found = race.run(effort)
            del race
            gc.collect()
            result["x"].append(point.x)
            for name in SWEPT:
                for column in columns:
                    result["methods"][name][column].append(getattr(found[name], column))
            bars.advance(bar)
    finally:
        torch.set_num_threads(before)
    return result


def table(result: dict[str, Any]) -> Table:
    """Milliseconds along x, and the ratio to the unit."""
    printed = Table(
        title=f"{result['title']}: ms (ratio to {UNIT})", title_justify="left", title_style="bold", box=None
    )
    printed.add_column(result["axis"], justify="right")
    for name in result["methods"]:
        printed.add_column(name, justify="right")
    for k, x in enumerate(result["x"]):
        cells = [f"{rows['ms'][k]:.3g} ({rows['ratio'][k]:.2f})" for rows in result["methods"].values()]
        printed.add_row(f"{x:,}", *cells)
    return printed
