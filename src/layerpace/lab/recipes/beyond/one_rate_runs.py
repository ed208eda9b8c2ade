"""The runs of the recipe one-rate, and what is measured of them.

Every method has one grid of rates for all cells. It grows by a factor of 3 on the side where some cell's best rate is
the last one, so that a cell's "own best" is one, and not the end of a grid; two steps on a side at most.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, TypeVar

from ..recipe import Data, Request, Scale
from ..records import Record, Records
from .one_rate_cells import CLASSES, EXTRA, METHODS, SMOKE_METHODS, cells, rates

T = TypeVar("T")


def methods(scale: Scale) -> tuple[str, ...]:
    return SMOKE_METHODS if scale.name == "smoke" else tuple(METHODS)


def seeds(scale: Scale) -> range:
    return scale.seeds(1, 3, 5)


def request(scale: Scale, method: str, cell: dict[str, Any], lr: float, seed: int) -> Request:
    common = {"schedule": "cosine", "validation": 0.2, "threads": scale.pick(1, 1, None), "device": scale.device}
    ends = {"eval_every": cell["steps"], "record_every": cell["steps"], "eval_size": 100}
    return {**cell, **common, **ends, "method": METHODS[method][0], "lr": lr, "seed": seed}


def score(record: Record, key: str, classes: int) -> float:
    """A run's final accuracy; that of a guess for one that diverged."""
    return 1 / classes if record.diverged else float(record.result[key])


def scores(scale: Scale, records: Records, method: str, grid: Sequence[float], key: str) -> list[list[list[float]]]:
    """Cell by cell, rate by rate, seed by seed; ``key``: "validation" or "test"."""
    found = []
    for name, cell in cells(scale).items():
        runs_of = [records.of([request(scale, method, cell, lr, seed) for seed in seeds(scale)]) for lr in grid]
        classes = CLASSES.get(name, 10)
        found.append([[round(score(r, f"{key}_score", classes), 4) for r in of] for of in runs_of])
    return found


def chosen_by(scale: Scale, records: Records, method: str, grid: Sequence[float]) -> list[list[float]]:
    """Validation accuracy, cell by cell and rate by rate, means over seeds."""
    found = scores(scale, records, method, grid, "validation")
    return [[round(statistics.fmean(of), 4) for of in row] for row in found]


def best_place(row: Sequence[float]) -> int:
    """The place of the highest score; of equal ones that nearest to the middle of the grid, for an end proves less."""
    middle = (len(row) - 1) / 2
    return max(range(len(row)), key=lambda place: (row[place], -abs(place - middle)))


def grown(scale: Scale, records: Records, method: str) -> tuple[int, int]:
    """How many rates a method's grid has below and above the first one's ends, as far as the records say."""
    further = scale.pick(1, 2, 2)
    lower = higher = 0
    while True:
        grid = rates(scale, method, lower, higher)
        asked = [request(scale, method, cell, lr, s) for cell in cells(scale).values() for lr in grid
                 for s in seeds(scale)]  # fmt: skip
        if not records.have(asked):
            return lower, higher
        own = {best_place(row) for row in chosen_by(scale, records, method, grid)}
        more = (int(0 in own and lower < further), int(len(grid) - 1 in own and higher < further))
        if more == (0, 0):
            return lower, higher
        lower, higher = lower + more[0], higher + more[1]


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    """Cell by cell, so that a worker loads each task once."""
    grids = {method: rates(scale, method, *grown(scale, records, method)) for method in methods(scale)}
    return [
        request(scale, method, cell, lr, seed)
        for cell in cells(scale).values()
        for method, grid in grids.items()
        for lr in grid
        for seed in seeds(scale)
    ]


def measure(scale: Scale, records: Records) -> Data:
    """{"methods": {title: {"lr", "validation", "test", "own", "average", "base", "at_end"}}, "cells": names, "extra",
    "seeds"}.

    ``validation`` holds, cell by cell and rate by rate, means over seeds; ``test`` the accuracy of each seed. ``own``
    holds the place in ``lr`` of each cell's best rate, ``average`` that of the best one on average over cells without
    ``extra``, ``base`` that of the base cell's. ``at_end`` names the cells whose own best is the first or last of
    ``lr``, as far as it has grown.
    """
    names = list(cells(scale))
    found: dict[str, Any] = {}
    for method in methods(scale):
        grid = rates(scale, method, *grown(scale, records, method))
        validation = chosen_by(scale, records, method, grid)
        own = [best_place(row) for row in validation]
        counted = [row for row, name in zip(validation, names, strict=True) if name != EXTRA]
        found[method] = {
            "lr": grid,
            "validation": validation,
            "test": scores(scale, records, method, grid, "test"),
            "own": own,
            "average": best_place([statistics.fmean(column) for column in zip(*counted, strict=True)]),
            "base": own[0],
            "at_end": [name for name, place in zip(names, own, strict=True) if place in (0, len(grid) - 1)],
        }
    return {"methods": found, "cells": names, "extra": [EXTRA], "seeds": len(seeds(scale))}


def losses(data: Data, method: str, kept: str) -> list[list[float]]:
    """Test accuracy at each cell's own best rate minus that at the kept one ("average" or "base"), seed by seed."""
    found = data["methods"][method]
    pairs = [(row[own], row[found[kept]]) for row, own in zip(found["test"], found["own"], strict=True)]
    return [[best - other for best, other in zip(*pair, strict=True)] for pair in pairs]


def kept_scores(data: Data, method: str) -> list[list[float]]:
    """Test accuracy of each cell at the rate that is best on average, seed by seed."""
    found = data["methods"][method]
    return [list(row[found["average"]]) for row in found["test"]]


def counted(data: Data, values: Sequence[T], kept: str = "average") -> list[T]:
    """Those of the cells that a claim is about: no extra ones, and not the base cell where its rate is the one kept."""
    left_out = [*data["extra"], *(["base"] if kept == "base" else [])]
    return [value for name, value in zip(data["cells"], values, strict=True) if name not in left_out]


def by_seed(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of these rows, cells or methods, for each seed."""
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]
