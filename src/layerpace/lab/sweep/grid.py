"""Products of lists: the runs that a spec names, and the searcher that simply makes them all.

    [grid]                              # 2 x 3 runs
    lr = [0.01, 0.1]
    seed = [0, 1, 2]

    [[runs]]                            # two more: in here a list is an axis, anything else a value
    method = "sgd"
    lr = [0.3, 1.0]

An axis whose entries are tables sets all of their keys together, whatever the axis is called:

    [grid]
    setup = [{ method = "lamb", lr = 0.01 }, { method = "sgd", lr = 0.1 }]
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..run_settings import MOST_RUNS
from .protocol import Request, Result


def product(table: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Every combination of the lists in a table, the first key slowest; what is no list is in all of them.

    Args:
        where: the table's name, for errors.

    Raises:
        UsageError: an empty list, a key that is set twice by tables in a list, or too many runs.
    """
    axes: list[list[dict[str, Any]]] = []
    for key, value in table.items():
        if not isinstance(value, list | tuple):
            axes.append([{key: value}])
            continue
        if not value:
            raise UsageError(f"{where} {key} = []: an axis needs at least one value")
        together = [isinstance(item, Mapping) for item in value]
        if any(together) and not all(together):
            raise UsageError(f"{where} {key}: either all of its values are tables, which set keys together, or none is")
        axes.append([dict(item) if isinstance(item, Mapping) else {key: item} for item in value])
    enough(math.prod(map(len, axes)), where)
    made = []
    for parts in itertools.product(*axes):
        request: dict[str, Any] = {}
        for part in parts:
            for key, value in part.items():
                if key in request:
                    raise UsageError(f"{where} {key}: is set twice, by two axes")
                request[key] = value
        made.append(request)
    return made


def enough(number: int, where: str) -> None:
    """Raise a UsageError for more runs than a sweep may have, before any of them is made."""
    if number > MOST_RUNS:
        raise UsageError(f"{where} names {number:,} runs: at most {MOST_RUNS:,}; split the sweep, or search")


class Grid:
    """Asks for every request once, in their order."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests, self.asked = list(requests), 0

    def ask(self, room: int) -> Sequence[Request]:
        asked = self.requests[self.asked : self.asked + room]
        self.asked += len(asked)
        return asked

    def tell(self, request: Request, result: Result | None) -> None:
        """A grid does not depend on results."""

    def finished(self) -> bool:
        return self.asked == len(self.requests)

    def total(self) -> int:
        return len(self.requests)


def make(search: Mapping[str, Any], requests: Sequence[Request], begun: Sequence[Request]) -> Grid:
    """The searcher of a spec that searches for nothing; see `protocol.MakeSearcher`."""
    for key in search:
        if key not in ("kind", "objective", "mode"):
            raise UsageError(f"[search] {key}: kind = 'grid' has no such key; what searches is 'rates' or 'optuna'")
    order: dict[str, int] = {}
    return Grid(sorted(requests, key=lambda request: order.setdefault(task(request), len(order))))


def task(request: Request) -> str:
    """Requests of one task go together, so that its data is loaded once."""
    return json.dumps([request.get(key) for key in ("task", "data", "model", "data_dir")], sort_keys=True)
