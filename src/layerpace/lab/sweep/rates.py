"""The search for learning rates of the layer-rotation paper (appendix B.2).

    [search]
    kind = "rates"
    rates = [0.0123, 0.037, 0.111]     # tried first; by default 3^-4, 3^-3, 3^-2
    factor = 3                         # between the rates tried next
    limit = 6                          # how often an end may be extended
    refine = true                      # half steps at the end
    along = "method"                   # half steps as in the paper, between neighbours on this axis of the grid

For every combination of the grid, all its seeds together: try `rates`. While the best is the lowest or the highest of
those tried, try the next one beyond it, lower or higher by `factor`. Then refine: try the rates half a step, by the
geometric mean, to either side of the best. The paper compares neighbours on an axis instead (its alpha), and where
their best rates differ by one factor, tries the rate between for both: `along` does that.

A run that diverged or failed is the worst there is. Equal scores: a rate between others is preferred to one at an end,
then the lower one; so where all diverge the search goes on to lower rates. Where all failed it ends: something else
than the rate is wrong.

The rates to try follow from the results alone, in whatever order they come, so a search that starts again asks for the
same runs, and is told at once of those that are finished.

Reference: Carbonnelle, De Vleeschouwer: Layer rotation: a surprisingly powerful indicator of generalization in deep
networks? Appendix B.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import UsageError
from .cells import Cell, Cells, key
from .objective import Objective
from .protocol import Request, Result

LR = "lr"
LEAST, FACTOR, LIMIT = 1e-30, 1000, 80  # of a rate, between rates, of extensions: no rate gets out of a float's range
KEYS = ("kind", "objective", "mode", "rates", "factor", "limit", "refine", "along")


def make(search: Mapping[str, Any], requests: Sequence[Request], begun: Sequence[Request]) -> Rates:
    """A searcher of rates; see `protocol.MakeSearcher`. What was begun it asks for again by itself."""
    settings = Settings.of(search)
    if settings.along is not None and any(settings.along not in request for request in requests):
        raise UsageError(f"[search] along = {settings.along!r}: is no axis of the grid")
    return Rates(settings, Objective.of(search), Cells(requests, (LR,)))


@dataclass(frozen=True)
class Settings:
    """The table [search], checked.

    Attributes:
        rates: tried first, rising, at least two, > 0.
        factor: > 1.
        limit: extensions of a cell, both ends together, >= 0.
    """

    rates: tuple[float, ...] = (3**-4, 3**-3, 3**-2)
    factor: float = 3.0
    limit: int = 6
    refine: bool = True
    along: str | None = None

    @classmethod
    def of(cls, search: Mapping[str, Any]) -> Settings:
        """Raises UsageError with the key that is wrong and what it may be."""
        for name in search:
            if name not in KEYS:
                raise UsageError(
                    f"[search] {name}: there is no such key for kind = 'rates': choose from {', '.join(KEYS)}"
                )
        rates, factor = search.get("rates", cls.rates), search.get("factor", cls.factor)
        limit, refine, along = (search.get(name, getattr(cls, name)) for name in ("limit", "refine", "along"))
        if not isinstance(rates, list | tuple) or len(rates) < 2 or not all(positive(rate) for rate in rates):
            raise UsageError(f"[search] rates = {rates!r}: must be two or more numbers above 0, from 1e-30 to 1e30")
        if not positive(factor) or not 1 < factor <= FACTOR:
            raise UsageError(f"[search] factor = {factor!r}: must be a number above 1, at most {FACTOR:,}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= LIMIT:
            raise UsageError(f"[search] limit = {limit!r}: must be a whole number, 0 or more, at most {LIMIT}")
        if not isinstance(refine, bool):
            raise UsageError(f"[search] refine = {refine!r}: must be true or false")
        if along is not None and not isinstance(along, str):
            raise UsageError(f"[search] along = {along!r}: must be the name of an axis of the grid")
        if along == LR:
            raise UsageError("[search] along = 'lr': lr is what is searched for; name another axis of the grid")
        return cls(tuple(sorted({float(rate) for rate in rates})), float(factor), limit, refine, along)


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= 1 / LEAST


def exact(rate: float) -> float:
    """To 12 significant digits: a rate that is reached on two ways is the same, and so are the runs that it names."""
    return float(f"{rate:.12g}")


def at(rate: float) -> dict[str, float]:
    return {LR: exact(rate)}


class Rates:
    """The searcher."""

    def __init__(self, settings: Settings, objective: Objective, cells: Cells) -> None:
        self.settings, self.objective, self.cells = settings, objective, cells
        self.asked: set[str] = set()

    def ask(self, room: int) -> list[Request]:
        new = self.new()[: max(room, 0)]
        self.asked.update(key(request) for request in new)
        return new

    def tell(self, request: Request, result: Result | None) -> None:
        cell = self.cells.of(request)
        if cell is not None:
            cell.tell(request, result, self.objective)

    def finished(self) -> bool:
        return not self.new() and all(self.explore(cell)[1] for cell in self.cells)

    def new(self) -> list[Request]:
        """What is to be run, or was run by an earlier process, and was not asked for yet."""
        found = [request for cell in self.cells for rate in self.wanted(cell) for request in cell.runs(at(rate))]
        return [request for request in found if key(request) not in self.asked]

    def total(self) -> int:
        return sum(len(cell.requests) * len(self.wanted(cell)) for cell in self.cells)

    def best(self) -> list[tuple[dict[str, Any], float, float]]:
        """(options of the cell, its best rate, mean score as a merit: higher is better) of every cell with results."""
        found = []
        for cell in self.cells:
            merits = {rate: merit for rate in self.wanted(cell) if (merit := cell.merit(at(rate))) is not None}
            if merits:
                rate = sorted(merits)[best_of([merits[rate] for rate in sorted(merits)])]
                found.append((cell.options, rate, merits[rate]))
        return found

    def wanted(self, cell: Cell) -> list[float]:
        """Every rate that a cell is to be tried with, as far as the results say."""
        rates, known = self.explore(cell)
        found = [*rates, *self.between(cell, rates)] if known else rates
        return sorted({exact(rate) for rate in found})

    def explore(self, cell: Cell) -> tuple[list[float], bool]:
        """The first stage: the rates tried, rising, and whether the best of them is known."""
        rates, first = list(self.settings.rates), self.settings.rates
        for extensions in range(self.settings.limit + 1):
            merits = [cell.merit(at(rate)) for rate in rates]
            known = [merit for merit in merits if merit is not None]
            if len(known) < len(rates):
                return rates, False
            best = best_of(known)
            if extensions == self.settings.limit or 0 < best < len(rates) - 1 or self.hopeless(cell, rates):
                break
            # powers of the factor, and not step by step: no rounding adds up
            below = sum(rate < first[0] for rate in rates)
            if best == 0:
                rates.insert(0, first[0] / self.settings.factor ** (below + 1))
            else:
                rates.append(first[-1] * self.settings.factor ** (extensions - below + 1))
        return rates, True

    def hopeless(self, cell: Cell, rates: Sequence[float]) -> bool:
        return all(cell.failed(at(rate)) for rate in rates)

    def between(self, cell: Cell, rates: list[float]) -> list[float]:
        """The second stage: the rates to try between those of the first."""
        best = self.first_best(cell)
        if not self.settings.refine or best is None:
            return []
        if self.settings.along is None:
            place = rates.index(best)
            beside = rates[max(place - 1, 0) : place] + rates[place + 1 : place + 2]
        else:
            others = [self.first_best(other) for other in self.neighbours(cell)]
            step = math.log(self.settings.factor)
            beside = [other for other in others if other and abs(abs(math.log(other / best)) - step) < 1e-6]
        return [math.sqrt(best * other) for other in beside]

    def first_best(self, cell: Cell) -> float | None:
        """The best rate of the first stage; None: it is not known yet, or no run did well."""
        rates, known = self.explore(cell)
        merits = [merit for rate in rates if (merit := cell.merit(at(rate))) is not None]
        return rates[best_of(merits)] if known and max(merits) > -math.inf else None

    def neighbours(self, cell: Cell) -> list[Cell]:
        """The cells next to it on the axis `along`."""
        family = next(family for family in self.families if cell in family)
        place = family.index(cell)
        return [*family[max(place - 1, 0) : place], *family[place + 1 : place + 2]]

    @cached_property
    def families(self) -> list[list[Cell]]:
        """Cells that differ on the axis `along` alone: by its value if these are numbers, else in the grid's order."""
        axis = self.settings.along or ""
        grouped: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rest = {name: item for name, item in cell.options.items() if name != axis}
            grouped.setdefault(key(rest), []).append(cell)
        for family in grouped.values():
            if all(isinstance(cell.options[axis], int | float) for cell in family):
                family.sort(key=lambda cell: float(cell.options[axis]))
        return list(grouped.values())


def best_of(merits: Sequence[float]) -> int:
    """Where the highest is; of equals one between others, then the first; of the worst the first."""
    top = max(merits)
    if top == -math.inf:
        return 0
    equal = [place for place, merit in enumerate(merits) if merit == top]
    return next((place for place in equal if 0 < place < len(merits) - 1), equal[0])
