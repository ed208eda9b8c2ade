"""What a sweep adds up to: the best runs, and where everything is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...engine.common.printable import printable
from ..errors import UsageError
from .driver import Driver
from .objective import SCORES, Objective
from .protocol import FAILED
from .runs import Run
from .table import axes, counts, label, text

SEED = "seed"
TOP = 5  # choices that are shown where there is one method only


@dataclass(frozen=True)
class Choice:
    """Runs that differ in their seed alone.

    Attributes:
        merit: mean over the runs, higher is better; minus infinity if one diverged or failed.
        values: the objective of those that did neither.
    """

    runs: tuple[Run, ...]
    merit: float
    values: tuple[float, ...]

    @property
    def method(self) -> Any:
        return self.runs[0].made.request.get("method")


def choices(runs: Iterable[Run], objective: Objective) -> list[Choice]:
    """All choices that have ended, the best first; UsageError if the results have no such figure."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        rest = {key: value for key, value in run.made.request.items() if key != SEED}
        grouped.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    found = []
    for group in grouped.values():
        if all(run.ended for run in group):
            values = [value for run in group if (value := objective.value(run.result)) is not None]
            merit = statistics.fmean(objective.merit(run.result) for run in group)
            found.append(Choice(tuple(group), merit, tuple(values)))
    return sorted(found, key=lambda choice: -choice.merit)


def best(found: Sequence[Choice]) -> list[Choice]:
    """Of each method the best, or of one method the first few."""
    of_method: dict[str, Choice] = {}
    for choice in found:
        of_method.setdefault(json.dumps(choice.method), choice)
    return list(of_method.values()) if len(of_method) > 1 else list(found[:TOP])


def spread(values: Sequence[float]) -> str:
    """mean ± sd."""
    if not values:
        return "-"
    mean = text(statistics.fmean(values))
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def table(found: Sequence[Choice], keys: Sequence[str], objective: Objective) -> Table:
    """A row a choice."""
    results = [run.result for choice in found for run in choice.runs if run.result is not None]
    held_out = objective.key is None and any(result.get(SCORES[0]) is not None for result in results)
    name = objective.key or SCORES[0 if held_out else 1]
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        made.add_column(Text(printable(key)), overflow="fold")
    for heading in (name, *([SCORES[1]] if held_out else []), "runs"):
        made.add_column(heading, justify="right", no_wrap=True)
    for choice in found:
        cells = [text(choice.runs[0].made.request.get(key)) for key in keys]
        cells.append(spread(choice.values))
        if held_out:
            tested = [run.result.get(SCORES[1]) for run in choice.runs if run.result]
            cells.append(spread([score for score in tested if isinstance(score, int | float)]))
        bad = len(choice.runs) - len(choice.values)
        cells.append(f"{len(choice.runs)}" + (f", {bad} diverged or failed" if bad else ""))
        made.add_row(*(Text(cell) for cell in cells))
    return made


def show(console: Console, driver: Driver, objective: Objective) -> None:
    """Print it."""

    def say(line: str, style: str = "") -> None:
        console.print(printable(line), style=style, soft_wrap=True, highlight=False, markup=False)

    keys = [key for key in axes(driver.runs) if key != SEED]
    try:
        found = choices(driver.runs, objective)
        if any(choice.values for choice in found):
            console.print(table(best(found), keys, objective))
    except UsageError as error:  # results of a runner of the user's own
        say(f"no best run: {error}", "dim")
    for run in driver.runs:
        if run.status == "failed":
            say(f"failed: {label(run, axes(driver.runs))}: {run.error} ({run.folder / FAILED})", "red")
    if driver.equal:
        say(f"{driver.equal} more that the spec names are equal to others, and made once", "dim")
    say(counts(driver))
    say(f"all files: {driver.runs.out}")


def document(driver: Driver, name: str) -> dict[str, Any]:
    """The same for --json: every run, with its options and its result."""
    runs = [
        {
            "folder": str(run.folder),
            "status": run.status,
            "request": dict(run.made.request),
            "result": run.result,
            "error": run.error or None,
            "seconds": run.seconds,
        }
        for run in driver.runs
    ]
    number = {word: sum(run.status == word for run in driver.runs) for word in ("done", "before", "failed", "waiting")}
    return {"name": name, "out": str(driver.runs.out), **number, "equal": driver.equal, "runs": runs}
