"""What is shown of a sweep: while it runs, and at its end."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layerpace.lab.errors import UsageError
from layerpace.lab.records import CURVE
from layerpace.lab.sweep import sweep_summary as summary
from layerpace.lab.sweep.driver import Driver
from layerpace.lab.sweep.grid import Grid
from layerpace.lab.sweep.objective import Objective
from layerpace.lab.sweep.protocol import Job, Outcome
from layerpace.lab.sweep.runner import Resolved, Runner
from layerpace.lab.sweep.runs import Run, Runs
from layerpace.lab.sweep.table import Lines, LiveTable, axes, counts, label, progress, reporter

from .helpers import Here


def sweep(folder: Path, number: int) -> Driver:
    """A driver with `number` runs of one method and another, waiting."""
    requests = [{"data": "digits", "method": ("adam", "lamb")[n % 2], "lr": 0.1 * (n // 2)} for n in range(number)]
    runs = Runs(folder, Runner("r:run", print, None, frozenset(), ""))
    for n, request in enumerate(requests):
        made = Resolved(request, {**request, "steps": 200}, f"run-{n}", None, False, {})
        runs.by_folder[folder / f"run-{n}"] = Run(made, folder / f"run-{n}", [request])
    driver = Driver(runs, Grid(requests))
    driver.executor = Here()
    return driver


def end(run: Run, **result: Any) -> Run:
    run.status, run.result, run.started, run.seconds = "done", {"status": "done", **result}, time.monotonic(), 90.0
    return run


def start(driver: Driver, run: Run) -> None:
    run.status, run.started, run.attempt = "running", time.monotonic(), 2
    run.folder.mkdir()
    driver.underway[run.folder] = Job(run.made.config, run.folder, "r:run", 1)


def shown(driver: Driver, height: int, width: int = 110) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    table = LiveTable(console, Objective())
    table.driver = driver
    with console.capture() as capture:
        console.print(table.render())
    return capture.get()


def test_axes_are_the_options_that_differ_the_method_first(tmp_path: Path) -> None:
    runs = list(sweep(tmp_path, 4).runs)
    assert axes(runs) == ["method", "lr"]
    assert label(runs[3], axes(runs)) == "lamb  lr 0.1"
    assert axes(runs[:1]) == [] and label(runs[0], []) == "run-0"


def test_the_last_line_of_the_curve_says_how_far_a_run_is(tmp_path: Path) -> None:
    assert progress(tmp_path, Objective()) == (None, None)
    rows = [{"step": step, "test_score": 0.5, "validation_score": step / 1000} for step in range(400)]
    (tmp_path / CURVE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert progress(tmp_path, Objective()) == (399, 0.399)
    assert progress(tmp_path, Objective("test_score")) == (399, 0.5)
    assert progress(tmp_path, Objective("loss")) == (399, None)
    (tmp_path / CURVE).write_text('{"step": 3, "te')
    assert progress(tmp_path, Objective()) == (None, None)


def test_a_small_sweep_is_shown_whole_and_in_order(tmp_path: Path) -> None:
    driver = sweep(tmp_path, 4)
    first, second, third, _ = driver.runs
    end(first, test_score=0.9321)
    start(driver, second)
    (second.folder / CURVE).write_text('{"step": 80, "test_score": 0.75}\n')
    third.status, third.error = "failed", "ValueError: bad"
    lines = shown(driver, height=30).splitlines()
    assert lines[0].startswith("4 runs: 1 done, 1 failed, 1 running, 1 waiting")
    assert "to go" in lines[0]
    rows = [line.split() for line in lines if line.startswith((" adam", " lamb", "adam", "lamb"))]
    assert rows == [
        ["adam", "0", "done", "0.9321", "1:30"],
        ["lamb", "0", "running", "(attempt", "2)", "80/200", "0.75", "0:00", "here"],
        ["adam", "0.1", "failed", "ValueError:", "bad"],
        ["lamb", "0.1", "waiting"],
    ]


@pytest.mark.parametrize("height", [12, 24, 50])
def test_a_large_sweep_fits_the_terminal_and_shows_what_is_going_on(tmp_path: Path, height: int) -> None:
    driver = sweep(tmp_path, 500)
    runs = list(driver.runs)
    for run in runs[:300]:
        end(run, test_score=0.5)
    for run in runs[300:303]:
        start(driver, run)
    runs[7].status, runs[7].result, runs[7].error = "failed", None, "OSError: full"
    text = shown(driver, height)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= height
    assert text.count("running (attempt 2)") == 3 and "OSError: full" in text
    assert "299 done, 1 failed, 3 running, 197 waiting" in text
    number = height - 6 - 1
    assert f"and {500 - number} more" in text


def test_a_log_has_a_line_for_every_end(tmp_path: Path) -> None:
    driver = sweep(tmp_path, 3)
    file = io.StringIO()
    lines = reporter(Console(file=file, width=60), Objective())
    assert type(lines) is Lines
    lines.begin(driver)
    first, second, third = driver.runs
    lines.lost(first, Outcome(Job({}, tmp_path, "r:run", 1), "lost", "killed by SIGKILL"))
    lines.ended(end(first, test_score=0.25))
    second.status, second.error = "failed", "ValueError: [bad]"
    lines.ended(second)
    lines.ended(end(third, status="diverged"))
    driver.underway[first.folder] = Job({}, tmp_path, "r:run", 1)
    lines.stopping()
    assert file.getvalue().splitlines() == [
        f"3 runs: 3 waiting, to {tmp_path}",
        "[0/3] adam  lr 0  lost its worker (killed by SIGKILL): attempt 1 follows",
        "[1/3] adam  lr 0  0.25  (90.0 s)",
        f"[2/3] lamb  lr 0  failed: ValueError: [bad]  ({second.folder}/FAILED)",
        "[3/3] adam  lr 0.1  diverged  (90.0 s)",
        "stopping: 1 run may write a checkpoint (again to end at once)",
    ]


def test_counts_of_an_open_search(tmp_path: Path) -> None:
    driver = sweep(tmp_path, 2)
    driver.searcher.total = lambda: None  # type: ignore[method-assign]
    assert counts(driver) == "2 runs so far: 2 waiting"


def seeds(folder: Path, scores: dict[tuple[str, float], list[float | None]]) -> Driver:
    """Finished runs: None diverged."""
    driver = sweep(folder, 0)
    for (method, lr), values in scores.items():
        for seed, value in enumerate(values):
            request = {"method": method, "lr": lr, "seed": seed}
            made = Resolved(request, request, f"{method}{lr}{seed}", 1, False, {})
            run = driver.runs.by_folder[folder / made.name] = Run(made, folder / made.name, [request])
            status = "diverged" if value is None else "done"
            end(run, status=status, test_score=None if value is None else value - 0.1, validation_score=value)
    return driver


def test_the_best_of_each_method_by_the_mean_over_seeds(tmp_path: Path) -> None:
    driver = seeds(
        tmp_path,
        {
            ("adam", 0.1): [0.9, 0.7],
            ("adam", 0.2): [0.85, 0.85],
            ("adam", 0.3): [0.99, None],
            ("lamb", 0.1): [0.5, 0.5],
        },
    )
    found = summary.best(summary.choices(driver.runs, Objective()))
    assert [(c.method, c.runs[0].made.request["lr"]) for c in found] == [("adam", 0.2), ("lamb", 0.1)]
    worst = summary.choices(driver.runs, Objective("validation_score", "min"))[0]
    assert worst.method == "lamb"
    console = Console(file=io.StringIO(), width=100)
    summary.show(console, driver, Objective())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.85 ± 0" in text and "0.75 ± 0" in text and "8 runs: 8 done" in text
    assert "validation_score" in text and "test_score" in text


def test_of_one_method_the_first_few_and_nothing_before_all_seeds_are_there(tmp_path: Path) -> None:
    driver = seeds(tmp_path, {("adam", lr): [lr, lr] for lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)})
    found = summary.best(summary.choices(driver.runs, Objective()))
    assert [c.runs[0].made.request["lr"] for c in found] == [0.7, 0.6, 0.5, 0.4, 0.3]
    last = list(driver.runs)[-1]
    last.status, last.result = "waiting", None
    found = summary.choices(driver.runs, Objective())
    assert len(found) == 6 and found[0].runs[0].made.request["lr"] == 0.6


def test_results_without_the_figure_are_shown_without_a_best(tmp_path: Path) -> None:
    driver = sweep(tmp_path, 2)
    for run in driver.runs:
        end(run, loss=0.3)
    with pytest.raises(UsageError, match="must be one of loss"):
        summary.choices(driver.runs, Objective())
    console = Console(file=io.StringIO(), width=100)
    summary.show(console, driver, Objective())
    assert "no best run: the results have no" in console.file.getvalue()  # type: ignore[attr-defined]
