"""What is shown while the runs of recipes are made, on stderr."""

from __future__ import annotations

import time

from rich.console import Console

from ..sweep.driver import Driver
from ..sweep.objective import Objective
from ..sweep.runs import Run
from ..sweep.table import Lines, LiveTable
from .recipe import Recipe, Scale

PAUSE = 20.0  # seconds between lines of a log


class Sparse(Lines):
    """For logs: what failed, and a line now and then, for recipes have hundreds of runs."""

    def __init__(self, console: Console, objective: Objective) -> None:
        super().__init__(console, objective)
        self.said = time.monotonic()

    def begin(self, driver: Driver) -> None:
        self.driver = driver  # how many runs there are shows only when the recipe has been asked

    def ended(self, run: Run) -> None:
        if run.status == "failed" or time.monotonic() - self.said > PAUSE:
            self.said = time.monotonic()
            super().ended(run)


class Table(LiveTable):
    """For terminals."""

    def begin(self, driver: Driver) -> None:
        self.driver = driver
        self.live.start()


def progress(console: Console, recipe: Recipe, scale: Scale, number: int, total: int) -> Lines:
    """A live table on a terminal, else lines; first of all which recipe it is."""
    of = f"[{number}/{total}] " if total > 1 else ""
    line = f"{of}{recipe.name}: {recipe.title} ({scale.name})"
    console.print(line, soft_wrap=True, highlight=False, markup=False, style="bold")
    objective = Objective(recipe.score)
    return Table(console, objective) if console.is_terminal else Sparse(console, objective)
