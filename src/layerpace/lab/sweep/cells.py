"""Requests that differ in their seed alone are one cell: a choice is judged by the mean over the seeds of its cell.

What is searched for (the axes) is in no request of the grid, and in every request that a searcher makes:

    request = cell's options + seed + axes
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from .objective import Objective
from .protocol import Request, Result

SEED = "seed"


def key(value: Any) -> str:
    """The same text for equal JSON-like values: 1 and 1.0 are equal, the order of a table's keys does not matter."""
    return json.dumps(_floats(value), sort_keys=True)


def _floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _floats(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass
class Told:
    """What is known of one choice of the axes: the merit for each seed so far, and the seeds whose run failed."""

    merits: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)


class Cell:
    """Requests alike but for the seed.

    Args:
        requests: at least one; the first says what they share.
        axes: names of what is searched for.
    """

    def __init__(self, requests: Sequence[Request], axes: Sequence[str]) -> None:
        self.requests, self.axes = list(requests), tuple(axes)
        self.options = {name: item for name, item in requests[0].items() if name != SEED}
        self.told: dict[str, Told] = {}
        self.choices: dict[str, dict[str, Any]] = {}  # what the keys of `told` stand for

    def tell(self, request: Request, result: Result | None, objective: Objective) -> None:
        """Take in a result."""
        choice = {axis: request[axis] for axis in self.axes}
        self.choices[key(choice)] = choice
        told = self.told.setdefault(key(choice), Told())
        seed = key(request.get(SEED))
        told.merits[seed] = objective.merit(result)
        (told.failed.add if result is None else told.failed.discard)(seed)

    def merit(self, choice: Mapping[str, Any]) -> float | None:
        """Mean over the seeds, higher is better, minus infinity if any diverged or failed; None: not all are told."""
        told = self.told.get(key(choice))
        seeds = [key(request.get(SEED)) for request in self.requests]
        if told is None or any(seed not in told.merits for seed in seeds):
            return None
        # The sum of exact parts does not depend on the order in which results came.
        return math.fsum(told.merits[seed] for seed in seeds) / len(seeds)

    def failed(self, choice: Mapping[str, Any]) -> bool:
        """Whether a run of this choice raised an error: nothing was learned about it."""
        told = self.told.get(key(choice))
        return told is not None and bool(told.failed)

    def runs(self, choice: Mapping[str, Any]) -> list[Request]:
        """The requests of this choice, one for each seed; also those that have a result."""
        return [{**request, **choice} for request in self.requests]


class Cells:
    """All cells of a grid, in the order of the grid.

    Args:
        requests: of the grid; none has an axis.
        axes: names of what is searched for.

    Raises:
        UsageError: a request has an axis.
    """

    def __init__(self, requests: Sequence[Request], axes: Sequence[str]) -> None:
        if not requests:
            raise UsageError("[search]: there is no run to search for: [base], [grid] and [[runs]] are empty")
        grouped: dict[str, dict[str, Request]] = {}
        for request in requests:
            for axis in axes:
                if axis in request:
                    raise UsageError(f"{axis} = {request[axis]!r}: [search] finds {axis}; leave it out of the rest")
            grouped.setdefault(self.name(request), {})[key(request.get(SEED))] = request
        self.axes = tuple(axes)
        self.by_name = {name: Cell(list(group.values()), axes) for name, group in grouped.items()}

    def name(self, request: Request, axes: Sequence[str] = ()) -> str:
        return key({option: item for option, item in request.items() if option != SEED and option not in axes})

    def of(self, request: Request) -> Cell | None:
        """The cell of a complete request; None: it is of another search."""
        if any(axis not in request for axis in self.axes):
            return None
        cell = self.by_name.get(self.name(request, self.axes))
        seeds = () if cell is None else [key(own.get(SEED)) for own in cell.requests]
        return cell if key(request.get(SEED)) in seeds else None

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)
