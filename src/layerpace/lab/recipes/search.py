"""A recipe as the searcher of a sweep: it is asked again whenever runs have finished."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..sweep.protocol import Request, Result
from ..sweep.runs import Run, Runs
from .recipe import Recipe, Scale
from .records import Record, Records, key


class Staged:
    """Asks for what the recipe wants, stage by stage; see `protocol.Searcher`.

    The recipe is asked again only when all that it has named is under way: recipes name up to thousands of runs.

    Attributes:
        runs: of the driver that asks; they know the folders.
        records: of the runs that have ended.
    """

    def __init__(self, recipe: Recipe, scale: Scale, runs: Runs) -> None:
        self.recipe, self.scale, self.runs = recipe, scale, runs
        self.records = Records()
        self.named: dict[str, Request] = {}
        self.pending: list[str] = []  # of those named, in order
        self.told = True  # something that the recipe does not know of yet
        self.known: dict[str, Run] = {}  # by the keys of their requests
        self.indexed = 0  # of the driver's runs

    def look(self) -> None:
        """Ask the recipe again, if there is nothing left of what it named and something new to tell it."""
        if self.pending or not self.told:
            return
        self.told = False
        wanted = {key(request): request for request in self.recipe.runs(self.scale, self.records)}
        self.pending = [name for name in wanted if name not in self.named]
        self.named.update(wanted)

    def ask(self, room: int) -> Sequence[Request]:
        self.look()
        taken, self.pending = self.pending[: max(room, 0)], self.pending[max(room, 0) :]
        return [self.named[name] for name in taken]

    def tell(self, request: Request, result: Result | None) -> None:
        self.told = True
        run = self.run(request)
        failed = f"{run.error} ({run.folder})"
        self.records.add(request, failed if result is None else Record(request, run.folder, result))

    def run(self, request: Request) -> Run:
        """The driver's run of a request."""
        name = key(request)
        if name not in self.known:  # the newest runs, or else a second request for an old one
            new = list(itertools.islice(self.runs, self.indexed, None))
            self.indexed = len(self.runs)
            self.known.update((key(one), run) for run in new for one in run.requests)
        if name not in self.known:
            self.known.update((key(one), run) for run in self.runs for one in run.requests)
        return self.known[name]

    def finished(self) -> bool:
        self.look()
        return not self.pending and self.records.have(self.named.values())

    def total(self) -> int | None:
        return len(self.named)
