"""What is shown while a comparison runs, on stderr: live bars on a terminal, else a line a run."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..printable import printable
from .plan import Cell, Plan


class ScoreColumn(ProgressColumn):
    """The score of the last evaluation."""

    max_refresh = 0.2

    def render(self, task: Task) -> Text:
        return Text(task.fields["score"], style="bold")


def score_text(score: float | None, metric: str) -> str:
    """Accuracies in %, other metrics as they are."""
    if score is None:
        return "-"
    return f"{100 * score:.1f}%" if metric == "accuracy" else f"{score:.4g}"


class LiveReporter:
    """A bar a method, over all of its rates and seeds, with the score of the run under way."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.fields[label]}", justify="left", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[run]}", style="dim"),
            ScoreColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=5,
        )
        self.bars: dict[Any, TaskID] = {}
        self.before: dict[Any, int] = {}  # steps of a method's finished runs
        self.plan: Plan | None = None

    def begin(self, plan: Plan) -> None:
        self.plan = plan
        for method in plan.methods:
            runs = sum(cell.method is method for cell in plan.cells)
            self.bars[method] = self.progress.add_task(
                "", total=runs * plan.settings.steps, label=printable(method.title), run="", score="", start=False
            )
            self.before[method] = 0
        self.progress.start()

    def point(self, cell: Cell, step: int, score: float) -> None:
        assert self.plan is not None
        bar = self.bars[cell.method]
        if not self.progress.tasks[bar].started:
            self.progress.start_task(bar)
        self.progress.update(
            bar,
            completed=self.before[cell.method] + step,
            run=f"lr {cell.lr:.3g}  seed {cell.seed}",
            score=score_text(score, self.plan.task.metric_name),
        )

    def end(self, cell: Cell, result: dict[str, Any], reused: bool) -> None:
        assert self.plan is not None
        self.before[cell.method] += self.plan.settings.steps
        ended = (
            "diverged" if result["status"] != "done" else score_text(result["test_score"], self.plan.task.metric_name)
        )
        bar = self.bars[cell.method]
        if not self.progress.tasks[bar].started:
            self.progress.start_task(bar)
        self.progress.update(bar, completed=self.before[cell.method], score=ended)
        if self.progress.tasks[bar].finished:
            self.progress.update(bar, run="")

    def __enter__(self) -> LiveReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


class LineReporter:
    """A line a finished run, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.plan: Plan | None = None
        self.count = 0
        self.started = time.monotonic()

    def begin(self, plan: Plan) -> None:
        self.plan = plan
        self.console.print(
            printable(f"{plan.task.name}: {len(plan.cells)} runs of {plan.settings.steps} steps, to {plan.out}"),
            soft_wrap=True,
            highlight=False,
        )

    def point(self, cell: Cell, step: int, score: float) -> None:
        if step == 0:
            self.started = time.monotonic()

    def end(self, cell: Cell, result: dict[str, Any], reused: bool) -> None:
        assert self.plan is not None
        self.count += 1
        score = score_text(result["test_score"], self.plan.task.metric_name)
        ended = score if result["status"] == "done" else f"diverged at step {result['diverged_at']}"
        took = "finished before" if reused else f"{time.monotonic() - self.started:.1f} s"
        place = f"[{self.count}/{len(self.plan.cells)}]"
        self.console.print(
            f"{place} {printable(cell.method.title)}  lr {cell.lr:.3g}  seed {cell.seed}  {ended}  ({took})",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def __enter__(self) -> LineReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def reporter(console: Console) -> LiveReporter | LineReporter:
    return LiveReporter(console) if console.is_terminal else LineReporter(console)
