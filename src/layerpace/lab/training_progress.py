"""What is shown while one training runs, on stderr: a live bar on a terminal, else a line an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..printable import printable
from .parallel import Team
from .progress import ScoreColumn, score_text
from .single import Training


@contextmanager
def progress(
    console: Console, training: Training, path: Path, team: Team
) -> Iterator[Callable[[int, float], None] | None]:
    """What to call with (steps done, score) at each evaluation; None on processes that show nothing."""
    if not team.first:
        yield None
        return
    config, metric, steps = training.config, training.task.metric_name, training.settings.steps
    several = f", {team.size} processes ({team.shard})" if team.size > 1 else ""
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


def summary(console: Console, training: Training, path: Path, result: Mapping[str, Any]) -> None:
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
