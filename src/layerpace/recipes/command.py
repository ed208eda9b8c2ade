"""`layerpace reproduce` from a parsed command line to the printed findings."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from ..lab import machine
from ..lab.errors import LabError, Stopped, UsageError, one_line
from ..lab.records import CONFIG, DONE, LOCK, Lock, make_folder, to_json
from ..lab.stopping import StopSignals
from ..lab.sweep.driver import Driver, Reporter
from ..lab.sweep.protocol import Executor
from ..lab.sweep.runner import Runner
from ..lab.sweep.runs import Runs
from . import page, results, show
from .progress import progress
from .recipe import Data, Recipe, Scale
from .registry import chosen, recipes
from .search import Staged


@dataclass(frozen=True)
class Settings:
    """The options of the command; see its help."""

    names: tuple[str, ...]
    scale: str = "cpu"
    list: bool = False
    out: Path = Path("runs/reproduce")
    results: Path | None = None
    redraw: bool = False
    page: bool = False
    data_dir: Path | None = None
    device: str | None = None
    jobs: int | None = None
    executor: str = "local"
    address: str | None = None
    json: bool = False


def run(settings: Settings) -> int:
    """Do what was asked for, and return the number of recipes that failed.

    Raises:
        UsageError, LabError: nothing was begun.
        Stopped: a signal came; the same command goes on.
    """
    console, err = Console(), Console(stderr=True)
    kept = settings.results or settings.out / "results"
    if settings.list:
        show.listing(console, recipes().values(), kept, settings.json)
        return 0
    if settings.page:
        console.print(f"{page.write(kept, recipes().values())}", soft_wrap=True, highlight=False)
        return 0
    wanted = chosen(settings.names)
    if settings.redraw:
        return redraw(console, wanted, kept, settings)
    scale = Scale(settings.scale, device(settings))  # type: ignore[arg-type]
    if settings.data_dir is not None:
        if not settings.data_dir.is_dir():
            raise UsageError(f"--data-dir {settings.data_dir}: there is no such folder")
        os.environ["LAYERPACE_DATA"] = str(settings.data_dir.resolve())  # of the workers, too
    with redirect_stdout(sys.stderr) if settings.json else keep():
        documents, failed = make_all(console, err, wanted, scale, kept, settings)
    if settings.json:
        sys.stdout.write(to_json({"scale": scale.name, "recipes": documents}, indent=2) + "\n")
    return failed


@contextmanager
def keep() -> Iterator[None]:
    """Leave stdout as it is."""
    yield


def device(settings: Settings) -> str:
    """--device; at the papers' scale a GPU if there is one."""
    if settings.device is not None:
        return settings.device
    import torch

    return "cuda" if settings.scale == "paper" and torch.cuda.is_available() else "cpu"


def make_all(
    console: Console, err: Console, wanted: Sequence[Recipe], scale: Scale, kept: Path, settings: Settings
) -> tuple[list[dict[str, Any]], int]:
    """Make the recipes one after another; one that fails does not stop the others."""
    make_folder(settings.out)
    lock = Lock(settings.out / LOCK)
    documents: list[dict[str, Any]] = []
    failed: list[str] = []
    executor = executor_of(settings, scale)
    try:
        with StopSignals() as signals:
            for number, recipe in enumerate(wanted, 1):
                try:
                    with progress(err, recipe, scale, number, len(wanted)) as reporter:
                        made, data = make(recipe, scale, settings, executor, reporter, signals)
                    folder = results.save(kept, recipe, scale.name, made, data)
                except LabError as error:
                    executor.close()  # some of its runs may still be under way
                    executor = executor_of(settings, scale)
                    failed.append(recipe.name)
                    err.print(f"{recipe.name}: {one_line(error)}", soft_wrap=True, highlight=False, markup=False)
                    continue
                show.findings(console, recipe, scale.name, data, made, folder)
                documents.append(json.loads((folder / f"{scale.name}.json").read_text()))
    except Stopped as stop:
        stop.resume = False  # it always goes on with what is there
        raise
    finally:
        executor.close()
        lock.release()
    show.summary(console, wanted, documents, failed)
    return documents, len(failed)


def executor_of(settings: Settings, scale: Scale) -> Executor:
    """Workers for all recipes, started when they are needed."""
    jobs = settings.jobs
    if jobs is None and settings.executor == "local" and scale.device.startswith("cuda"):
        from ..lab.sweep.local import gpus

        jobs = max(1, len(gpus()))
    module: Any = importlib.import_module(f"layerpace.lab.sweep.{settings.executor}")
    made: Executor = module.make(settings.out.resolve(), settings.address, jobs, None)
    return made


def make(
    recipe: Recipe, scale: Scale, settings: Settings, executor: Executor, reporter: Reporter, signals: StopSignals
) -> tuple[results.Made, Data]:
    """Make the runs of a recipe that are not finished, and measure.

    Raises:
        LabError: data are missing, or a run failed.
        Stopped: a signal came.
    """
    runs = Runs(settings.out, Runner.of(recipe.runner))
    searcher = Staged(recipe, scale, runs)
    driver = Driver(runs, searcher)
    driver.run(executor, reporter, signals, close=False)
    broken = [run for run in runs if run.status == "failed"]
    if broken:
        raise LabError(f"{len(broken)} of {len(runs)} runs failed; the first: {broken[0].error} ({broken[0].folder})")
    data: Data = json.loads(to_json(recipe.measure(scale, searcher.records)))
    return how(recipe, scale, settings, [run.folder for run in runs]), data


def how(recipe: Recipe, scale: Scale, settings: Settings, folders: Sequence[Path]) -> results.Made:
    """Where and when the result was made, and the command for it."""
    spans = [(folder / CONFIG).stat().st_mtime for folder in folders], [(f / DONE).stat().st_mtime for f in folders]
    pairs = list(zip(*spans, strict=True))
    command = ["layerpace", "reproduce", recipe.name, "--scale", scale.name]
    if settings.device is not None:
        command += ["--device", settings.device]
    return results.Made(
        command=shlex.join(command),
        commit=machine.commit(),
        machine=machine.describe(scale.device),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=len(folders),
        run_seconds=round(sum(end - start for start, end in pairs), 1),
        wall_seconds=round(covered(pairs), 1),
    )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def redraw(console: Console, wanted: Sequence[Recipe], kept: Path, settings: Settings) -> int:
    """Judge and draw again what is kept, without a run."""
    missing = 0
    for recipe in wanted:
        saved = results.load(kept, recipe, settings.scale)
        if saved is None:
            missing += 1
            console.print(f"{recipe.name}: {kept} has no result at scale {settings.scale}", highlight=False)
            continue
        folder = results.save(kept, recipe, settings.scale, saved.made, saved.data)
        show.findings(console, recipe, settings.scale, saved.data, saved.made, folder)
    return missing
