"""`layerpace sweep` from a parsed command line to the printed table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...engine.common.consoles import SafeConsole
from ...monitors.follower import RUN as MONITOR
from ..errors import Stopped, UsageError
from ..methods import slug
from ..records import CONFIG, LOCK, Lock, make_folder, to_json, write
from ..stopping import StopSignals
from . import sweep_summary as summary
from .driver import Driver, begin
from .protocol import SWEEP, Executor, Request, Searcher
from .runner import Runner
from .runs import Runs
from .spec import Spec, load
from .table import reporter
from .unseen import UnseenRuns, foreign

KIND = "layerpace sweep"  # marks sweep.json as ours


@dataclass(frozen=True)
class Settings:
    """The options of the command; see its help."""

    spec: str
    out: Path | None = None
    executor: str = "local"
    address: str | None = None
    jobs: int | None = None
    retries: int = 2
    keep_failed: bool = False
    dry_run: bool = False
    json: bool = False


def run(settings: Settings) -> int:
    """Make what is not finished, print what it adds up to, and return the number of runs that failed.

    Raises:
        UsageError, LabError: nothing was begun, or what is finished stays so.
        Stopped: a signal came; the same command goes on.
    """
    console = SafeConsole(stderr=True)
    # what a runner's module or a task of the user's prints is not part of the JSON document
    with redirect_stdout(sys.stderr) if settings.json else nullcontext():
        spec = load(settings.spec)
        out = settings.out or Path("runs") / f"sweep-{slug(spec.name)}"
        usable(out)
        driver = prepare(spec, out, settings)
        if not settings.dry_run:
            make(spec, out, settings, driver, console)
    failed = sum(run.status == "failed" for run in driver.runs)
    if settings.json:
        sys.stdout.write(to_json(summary.document(driver, spec.name), indent=2) + "\n")
    elif settings.dry_run:
        plan(SafeConsole(), spec, driver)
    else:
        summary.show(SafeConsole(), driver, spec.objective)
    return 0 if settings.dry_run else failed


def usable(out: Path) -> None:
    """Raise a UsageError for a folder that is something else's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, not a folder")
    if not (out / SWEEP).exists() and ((out / CONFIG).exists() or (out / MONITOR).exists()):
        raise UsageError(f"{out} holds a comparison or a single run: use another --out")


def prepare(spec: Spec, out: Path, settings: Settings) -> Driver:
    """Check the whole of a grid, or the first run of a search, before anything is written."""
    module = importlib.import_module(f"{__package__}.{spec.kind}")

    def searcher(begun: Sequence[Request]) -> Searcher:
        made: Searcher = module.make(spec.search, spec.requests, begun)
        if settings.dry_run and "storage" in spec.search:  # nothing is written
            made = module.make({**spec.search, "storage": None}, spec.requests, begun)
        return made

    grid = spec.kind == "grid"
    unseen = settings.dry_run and foreign(spec) is not None
    runs = UnseenRuns(out, spec) if unseen else Runs(out, Runner.of(spec.runner))
    driver = begin(runs, searcher, not grid, settings.retries, settings.keep_failed)
    driver.take(len(spec.requests) if grid else 1)
    return driver


def make(spec: Spec, out: Path, settings: Settings, driver: Driver, console: Console) -> None:
    """Write the spec, and make the runs."""
    make_folder(out)
    lock = Lock(out / LOCK)
    try:
        write(out / SWEEP, to_json({"kind": KIND, "from": settings.spec, "spec": spec.table}, indent=2))
        driver.tidy(*driver.runs)
        if not driver.queue and driver.searcher.finished():
            return
        with StopSignals() as signals, reporter(console, spec.objective) as progress:
            driver.run(executor(spec, out, settings, len(driver.queue)), progress, signals)
    except Stopped as stop:
        stop.resume = False  # a sweep always does
        raise
    finally:
        lock.release()


def executor(spec: Spec, out: Path, settings: Settings, runs: int) -> Executor:
    """The executor that was asked for; on this machine no more jobs at once than there are runs to make."""
    threads = [number for request in spec.requests if isinstance(number := request.get("threads"), int) and number > 0]
    most = max(threads) if threads else None
    jobs = settings.jobs
    if settings.executor == "local":
        from .local import cores, gpus

        if jobs is None and any(str(request.get("device")).startswith("cuda") for request in spec.requests):
            jobs = max(1, len(gpus()))
        if jobs is None and spec.kind == "grid":
            jobs = max(1, min(runs, len(cores()) // (most or 1)))
    module: Any = importlib.import_module(f"{__package__}.{settings.executor}")
    made: Executor = module.make(out.resolve(), settings.address, jobs, most)
    return made


def plan(console: Console, spec: Spec, driver: Driver) -> None:
    """What --dry-run prints: the runs, and what there is of them."""
    from .table import axes, label

    keys = axes(driver.runs)
    code = foreign(spec)
    for run in driver.runs:
        begun = "begun" if run.status == "waiting" and run.folder.exists() else run.status
        word = {"before": "finished", "waiting": "to make", "begun": "to go on with"}.get(begun, begun)
        name = run.folder.name if code is None or run.folder.exists() else ""
        console.print(f"{word:<14} {label(run, keys)}  {name}".rstrip(), soft_wrap=True, highlight=False, markup=False)
    if code is not None:
        console.print(
            f"{code} is code that a dry run does not import: runs are told by their options alone, and whether it has "
            "changed since is not known",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
    more = "" if spec.kind == "grid" else f" to begin with; [search] kind = {spec.kind!r} finds the others"
    word = f"{len(driver.runs)} run{'s' * (len(driver.runs) != 1)}"
    console.print(f"{word}{more}, in {driver.runs.out}", soft_wrap=True, highlight=False, markup=False)
