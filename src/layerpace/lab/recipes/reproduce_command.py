"""`layerpace reproduce` from a parsed command line to the printed findings."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ...engine.common.consoles import SafeConsole
from ..errors import LabError, Stopped, UsageError, one_line
from ..records import LOCK, Lock, make_folder, to_json
from ..run_settings import usable
from ..stopping import StopSignals
from ..sweep.driver import Driver, Reporter
from ..sweep.protocol import Executor
from ..sweep.runner import Runner
from ..sweep.runs import Runs
from . import page, results, show
from . import provenance as making
from .progress import progress
from .recipe import Data, Finding, Recipe, Scale
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
    console, err = SafeConsole(), SafeConsole(stderr=True)
    kept = settings.results or settings.out / "results"
    if settings.list:
        listed = chosen(settings.names) if settings.names else recipes().values()
        show.listing(console, listed, kept, settings.json)
        return 0
    if settings.page:
        console.print(f"{page.write(kept, recipes().values())}", soft_wrap=True, highlight=False)
        return 0
    wanted = chosen(settings.names)
    if settings.redraw:
        return redraw(console, err, wanted, kept, settings)
    scale = Scale(settings.scale, device(settings))  # type: ignore[arg-type]
    if settings.data_dir is not None:
        if not settings.data_dir.is_dir():
            raise UsageError(f"--data-dir {settings.data_dir}: there is no such folder")
        os.environ["LAYERPACE_DATA"] = str(settings.data_dir.resolve())  # of the workers, too
    with redirect_stdout(sys.stderr) if settings.json else nullcontext():
        documents, failed = make_all(console, err, wanted, scale, kept, settings)
    if settings.json:
        sys.stdout.write(to_json({"scale": scale.name, "recipes": documents}, indent=2) + "\n")
    return failed


def device(settings: Settings) -> str:
    """--device; at the papers' scale a GPU if there is one. A UsageError if this machine does not have it."""
    if settings.device is not None:
        usable(settings.device)
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
                        saved = make(recipe, scale, settings, executor, reporter, signals)
                    folder = results.save(kept, saved)
                except LabError as error:
                    if len(wanted) == 1:
                        raise
                    executor.close()  # some of its runs may still be under way
                    executor = executor_of(settings, scale)
                    failed.append(recipe.name)
                    tell(err, recipe, error)
                    continue
                show.findings(console, saved, folder)
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
        from ..sweep.local import gpus

        jobs = max(1, len(gpus()))
    module: Any = importlib.import_module(f"layerpace.lab.sweep.{settings.executor}")
    made: Executor = module.make(settings.out.resolve(), settings.address, jobs, None)
    return made


def make(
    recipe: Recipe, scale: Scale, settings: Settings, executor: Executor, reporter: Reporter, signals: StopSignals
) -> results.Saved:
    """Make the runs of a recipe that are not finished, measure, and judge.

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
    try:
        data: Data = json.loads(to_json(recipe.measure(scale, searcher.records)))
    except LabError:
        raise
    except Exception as error:  # whatever a recipe's code raises: the others go on
        raise LabError(f"measuring {recipe.name}: {type(error).__name__}: {error}") from error
    made = making.made(command_of(recipe, scale, settings), [run.folder for run in runs], scale.device)
    findings = tuple(judged(recipe, data))
    return results.Saved(recipe, scale.name, recipe.setup[scale.name], recipe.version, made, findings, data)


def command_of(recipe: Recipe, scale: Scale, settings: Settings) -> str:
    """The command line that makes a result again."""
    words = ["layerpace", "reproduce", recipe.name, "--scale", scale.name]
    return shlex.join(words if settings.device is None else [*words, "--device", settings.device])


def redraw(console: Console, err: Console, wanted: Sequence[Recipe], kept: Path, settings: Settings) -> int:
    """Judge and draw again what is kept, without a run; the number of recipes where that cannot be."""
    failed = 0
    for recipe in wanted:
        try:
            saved = results.load(kept, recipe, settings.scale)
            if saved is None:
                raise LabError(f"{kept} has no result at scale {settings.scale}")
            if saved.version != recipe.version:
                raise LabError("its kept data were measured in another way: make it again, without --redraw")
            again = replace(saved, findings=tuple(judged(recipe, saved.data)))
            folder = results.save(kept, again)
        except LabError as error:
            failed += 1
            tell(err, recipe, error)
            continue
        changed = [new.claim.key for new, old in zip(again.findings, saved.findings, strict=False) if new != old]
        show.findings(console, again, folder)
        if changed:
            err.print(f"{recipe.name}: found otherwise before: {', '.join(changed)}", highlight=False, markup=False)
    return failed


def judged(recipe: Recipe, data: Data) -> list[Finding]:
    """The findings of a recipe; a LabError where its code cannot make them."""
    try:
        return recipe.findings(data)
    except Exception as error:  # the other recipes go on
        raise LabError(f"judging {recipe.name}: {type(error).__name__}: {error}") from error


def tell(err: Console, recipe: Recipe, error: Exception) -> None:
    err.print(f"{recipe.name}: {one_line(error)[:2000]}", soft_wrap=True, highlight=False, markup=False)
