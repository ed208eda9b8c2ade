"""Progress on stderr of a comparison and of one training run: live bars on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..engine.common.printable import printable, printable_lines
from .compare_plan import Cell, Plan

if TYPE_CHECKING:
    from .methods import Method
    from .parallel import Team
    from .single import Training
    from .tasks import Task as TaskOfRuns


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


def show_routing(console: Console, method: Method, task: TaskOfRuns) -> None:
    """Which tensors a method by role moves how; nothing, of a method that moves all alike."""
    if method.role_specs:
        with torch.random.fork_rng([]):
            roles = method.roles(task.model(), lambda: task.data.floats(task.data.train_inputs[:2]))
        assert roles is not None
        console.print(printable_lines(method.routing(roles)), soft_wrap=True, highlight=False, markup=False)


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
            show_routing(self.console, method, plan.task)
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
        for method in plan.methods:
            show_routing(self.console, method, plan.task)

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


@contextmanager
def training_progress(
    console: Console, training: Training, path: Path, team: Team
) -> Iterator[Callable[[int, float], None] | None]:
    """What to call with (steps done, score) at each evaluation; None on processes that show nothing."""
    if not team.first:
        yield None
        return
    config, metric, steps = training.config, training.task.metric_name, training.settings.steps
    several = f", {team.size} processes ({team.shard})" if team.size > 1 else ""
    show_routing(console, training.method, training.task)
    title = f"{training.task.name}: {training.method.title}, lr {config['lr']:.3g}, seed {config['seed']}"
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            ScoreColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=5,
        ) as bars:
            bar = bars.add_task(printable(title + several), total=steps, score="")
            yield lambda step, score: bars.update(bar, completed=step, score=score_text(score, metric))
        return

    def say(text: str) -> None:
        console.print(printable(text), soft_wrap=True, highlight=False, markup=False)

    say(f"{title}, {steps} steps of batch {training.settings.batch_size}{several}, to {path}")
    started = time.monotonic()
    yield lambda step, score: say(
        f"step {step}/{steps}  {metric} {score_text(score, metric)}  ({time.monotonic() - started:.1f} s)"
    )


def training_summary(console: Console, training: Training, path: Path, result: Mapping[str, Any]) -> None:
    """A few lines on how it ended."""
    metric, steps = training.task.metric_name, training.settings.steps

    def say(text: str) -> None:
        console.print(printable(text), soft_wrap=True, highlight=False, markup=False)

    if result["status"] != "done":
        say(f"{training.method.title} diverged at step {result['diverged_at']}: its loss is not finite")
    else:
        held_out = result["validation_score"]
        also = "" if held_out is None else f", {score_text(held_out, metric)} on held-out training examples"
        say(
            f"{training.method.title}: test {metric} {score_text(result['test_score'], metric)} "
            f"after {steps} steps{also}"
        )
        if training.settings.target is not None:
            reached = result["steps_to_target"]
            text = f"not within {steps} steps" if reached is None else f"after {reached} steps"
            say(f"target {score_text(training.settings.target, metric)}: {text}")
    if result["step_ms"] is not None:
        say(f"{result['step_ms']:.2f} ms a step, {result['optimizer_ms']:.2f} of it the optimizer")
    say(f"all files: {path}")
