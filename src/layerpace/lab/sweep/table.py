"""What is shown while a sweep runs, on stderr: a live table of its runs on a terminal, else a line a run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...engine.common.printable import printable
from ..records import CURVE
from .driver import Driver
from .objective import SCORES, Objective
from .protocol import FAILED, Outcome
from .runs import Run, Status

REFRESH = 0.5  # seconds
TAIL = 4096  # bytes of curve.jsonl that hold its last line
FRAME = 6  # lines of the live display that are no runs
STYLES: dict[Status, str] = {"running": "bold", "failed": "red", "waiting": "dim", "before": "dim", "done": "green"}
WORDS: dict[Status, str] = {"before": "finished before"}
ORDER: tuple[Status, ...] = ("running", "failed", "done", "waiting", "before")  # what is left out first, comes last


def axes(runs: Iterable[Run]) -> list[str]:
    """The options in which runs differ, in the order in which specs name them; `method` first."""
    seen: dict[str, set[str]] = {}
    requests = [run.made.request for run in runs]
    for key in dict.fromkeys(key for request in requests for key in request):
        seen[key] = {json.dumps(request.get(key), sort_keys=True) for request in requests}
    found = [key for key, values in seen.items() if len(values) > 1]
    return sorted(found, key=lambda key: key != "method")


def text(value: Any) -> str:
    """A value of an option, for a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(value) if isinstance(value, str) else "-" if value is None else json.dumps(value)


def label(run: Run, keys: Sequence[str]) -> str:
    """What tells a run from the others."""
    request = run.made.request
    named = [f"{'' if key == 'method' else printable(key) + ' '}{text(request[key])}" for key in keys if key in request]
    return "  ".join(named) or printable(run.folder.name)


def score(run: Run, objective: Objective) -> str:
    """The figure that the runs are compared by, of one that is finished."""
    assert run.result is not None
    if run.result.get("status") == "diverged":
        return "diverged"
    keys = SCORES if objective.key is None else (objective.key,)
    return next((text(run.result[key]) for key in keys if run.result.get(key) is not None), "-")


def progress(folder: Path, objective: Objective) -> tuple[int | None, float | None]:
    """(steps done, score) of a run under way, from the last line of its curve; None for what is not known."""
    try:
        with open(folder / CURVE, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            row = json.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except (OSError, ValueError):
        return None, None
    keys = SCORES if objective.key is None else (objective.key,)
    return row.get("step"), next((row[key] for key in keys if isinstance(row.get(key), int | float)), None)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def counts(driver: Driver) -> str:
    """How many runs there are of each kind, on one line."""
    number = Counter(run.status for run in driver.runs)
    total = max(len(driver.runs), driver.searcher.total() or 0)
    open_end = "" if driver.searcher.total() is not None else " so far"
    waiting = total - sum(number[status] for status in ("done", "before", "failed", "running"))
    found = {"done": number["done"], WORDS["before"]: number["before"], "failed": number["failed"]}
    found |= {"running": number["running"], "waiting": waiting}
    parts = [f"{count} {word}" for word, count in found.items() if count]
    return f"{total} run{'s' * (total != 1)}{open_end}: {', '.join(parts) or 'none'}"


class Lines:
    """A line a run that ended, for logs."""

    def __init__(self, console: Console, objective: Objective) -> None:
        self.console, self.objective = console, objective
        self.driver: Driver | None = None

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def begin(self, driver: Driver) -> None:
        self.driver = driver
        self.say(f"{counts(driver)}, to {driver.runs.out}")

    def tick(self) -> None:
        """Nothing: a log needs no picture of the moment."""

    def head(self, run: Run) -> str:
        assert self.driver is not None
        ended = sum(other.ended for other in self.driver.runs)
        total = self.driver.searcher.total()
        of = "" if total is None else f"/{max(total, len(self.driver.runs))}"
        return f"[{ended}{of}] {label(run, axes(self.driver.runs))}"

    def ended(self, run: Run) -> None:
        if run.status == "failed":
            self.say(f"{self.head(run)}  failed: {run.error}  ({run.folder / FAILED})")
        elif run.status == "done":
            self.say(f"{self.head(run)}  {score(run, self.objective)}  ({run.seconds or 0:.1f} s)")

    def lost(self, run: Run, outcome: Outcome) -> None:
        self.say(f"{self.head(run)}  lost its worker ({outcome.detail}): attempt {run.attempt + 1} follows")

    def stopping(self) -> None:
        assert self.driver is not None
        number = len(self.driver.underway)
        self.say(f"stopping: {number} run{'s' * (number != 1)} may write a checkpoint (again to end at once)")

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class LiveTable(Lines):
    """A table of all runs, or of as many as the terminal is high: those under way, then failed, then latest ones."""

    def __init__(self, console: Console, objective: Objective) -> None:
        super().__init__(console, objective)
        self.live = Live(console=console, get_renderable=self.render, auto_refresh=False, transient=True)
        self.shown, self.started = 0.0, time.monotonic()

    def begin(self, driver: Driver) -> None:
        super().begin(driver)
        self.live.start()

    def tick(self) -> None:
        if time.monotonic() - self.shown >= REFRESH:
            self.live.refresh()
            self.shown = time.monotonic()

    def ended(self, run: Run) -> None:
        if run.status == "failed":  # stays above the table
            super().ended(run)

    def render(self) -> RenderableType:
        driver = self.driver
        if driver is None:
            return Text()
        runs = list(driver.runs)
        room = max(3, self.console.height - FRAME)
        shown = runs
        if len(runs) > room:
            latest = sorted(runs, key=lambda run: -(run.started + (run.seconds or 0.0)))
            chosen = sorted(latest, key=lambda run: ORDER.index(run.status))[: room - 1]
            kept = {run.folder for run in chosen}
            shown = [run for run in runs if run.folder in kept]
        parts: list[RenderableType] = [
            Text(f"{counts(driver)}   {clock(time.monotonic() - self.started)}{left(driver)}")
        ]
        parts.append(self.table(shown))
        if len(shown) < len(runs):
            parts.append(Text(f"and {len(runs) - len(shown)} more", style="dim"))
        return Group(*parts)

    def table(self, runs: Sequence[Run]) -> Table:
        assert self.driver is not None
        made = Table(box=SIMPLE_HEAD, pad_edge=False)
        keys = axes(self.driver.runs)
        for key in keys or ["run"]:
            made.add_column(Text(printable(key)), no_wrap=True, max_width=32)
        for heading in ("", "step", "score", "time", "where"):
            made.add_column(heading, no_wrap=True, justify="left" if heading in ("", "where") else "right")
        for run in runs:
            named = [text(run.made.request.get(key)) for key in keys] or [run.folder.name]
            made.add_row(*(Text(printable(cell)) for cell in (*named, *self.cells(run))), style=STYLES[run.status])
        return made

    def cells(self, run: Run) -> list[str]:
        """[status, step, score, time, where]."""
        assert self.driver is not None
        word = WORDS.get(run.status, run.status)
        if run.status == "running":
            assert self.driver.executor is not None
            where = self.driver.executor.where(self.driver.underway[run.folder])
            step, value = progress(run.folder, self.objective)
            total = run.made.config.get("steps")
            steps = "" if step is None else f"{step}/{total}" if total else str(step)
            tried = f" (attempt {run.attempt})" if run.attempt > 1 else ""
            seconds = clock(time.monotonic() - run.started)
            return [word + tried, steps, "" if value is None else text(value), seconds, where]
        if run.status == "failed":
            return [word, "", "", "" if run.seconds is None else clock(run.seconds), run.error[:60]]
        figure = score(run, self.objective) if run.result is not None else ""
        return [word, "", figure, "" if run.seconds is None else clock(run.seconds), ""]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()


def left(driver: Driver) -> str:
    """About how long it still takes, where that can be said."""
    assert driver.executor is not None
    taken = [run.seconds for run in driver.runs if run.seconds is not None]
    total = driver.searcher.total()
    if total is None or not taken:
        return ""
    running = sum(run.status == "running" for run in driver.runs)
    waiting = max(total, len(driver.runs)) - sum(run.ended for run in driver.runs)
    seconds = sum(taken) / len(taken) * (waiting - running / 2) / max(1, driver.executor.slots())
    return f", about {clock(seconds)} to go" if seconds >= 1 else ""


def reporter(console: Console, objective: Objective) -> Lines:
    return LiveTable(console, objective) if console.is_terminal else Lines(console, objective)
