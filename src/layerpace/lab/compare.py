"""The comparison: make the runs of a plan that are not finished, and write what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from .batches import split
from .compare_plan import Cell, Plan, Request, plan
from .compare_summary import Finished, Row, summarize
from .errors import Stopped
from .launches import flags, mark
from .parallel import Team
from .records import RESULTS, Folder, to_json, write
from .reproducible import reproducible
from .stopping import StopSignals
from .tasks import Task
from .training import Run


class Reporter(Protocol):
    """Shows progress; see `progress`."""

    def begin(self, plan: Plan) -> None: ...
    def point(self, cell: Cell, step: int, score: float) -> None: ...
    def end(self, cell: Cell, result: dict[str, Any], reused: bool) -> None: ...


class Nobody:
    """The reporter of processes that show nothing."""

    def begin(self, plan: Plan) -> None: ...
    def point(self, cell: Cell, step: int, score: float) -> None: ...
    def end(self, cell: Cell, result: dict[str, Any], reused: bool) -> None: ...


def run_all(plan: Plan, folder: Folder, reporter: Reporter, signals: StopSignals, team: Team | None = None) -> Finished:
    """Make every run that is not finished yet."""
    team = team or Team()
    device = plan.settings.device
    task = replace(plan.task, data=plan.task.data.to(device))
    indices = split(len(task.data.train_inputs), plan.validation)
    finished: Finished = {}
    with reproducible(plan.settings.threads):
        for cell in plan.cells:
            run_folder = folder.run(plan.folder_name(cell), plan.run_config(cell))
            result = team.broadcast(run_folder.result)
            reused = result is not None
            if result is None:
                run = Run(task, cell.method, cell.lr, cell.seed, plan.settings, run_folder, indices, team)
                result = run.train(signals, lambda step, score, cell=cell: reporter.point(cell, step, score))  # type: ignore[misc]
            finished[cell] = (run_folder, result)
            reporter.end(cell, result, reused)
            received = team.max(signals.received or 0)
            if received:  # it came after the run's last look, and the run is on disk
                raise Stopped(received)
    return finished


def compare(
    request: Request,
    task: Task,
    reporter: Reporter,
    signals: StopSignals | None = None,
    draw: Callable[[Plan, Folder, list[Row]], list[Path]] | None = None,
    team: Team | None = None,
) -> dict[str, Any]:
    """Run the comparison and return what results.json holds; `draw` makes the plots.

    The processes of a `team` call it alike, and rank 0 writes and reports.
    """
    made = plan(request, task)
    signals, team = signals or StopSignals(), team or Team()
    if not team.first:
        reporter = Nobody()
    restarted = team.restarted()
    with ExitStack() as stack:
        folder = Folder(made.out, made.config, request.resume, request.overwrite, own=False)

        def opened() -> None:
            nonlocal folder
            chosen = flags(made.out, request.resume, request.overwrite, restarted)
            folder = stack.enter_context(Folder(made.out, made.config, *chosen))
            mark(made.out)

        team.broadcast(opened)
        reporter.begin(made)
        finished = run_all(made, folder, reporter, signals, team)

        def results() -> dict[str, Any]:
            rows = summarize(made, finished)
            found: dict[str, Any] = {
                "out": str(made.out),
                "metric": task.metric_name,
                "target": made.target,
                "config": folder.config,
                "methods": [row.as_dict() for row in rows],
            }
            found["plots"] = [str(path) for path in draw(made, folder, rows)] if draw else []
            write(made.out / RESULTS, to_json(found, indent=2))
            return found

        return team.broadcast(results)
