"""A request, checked in full, becomes a plan: every run with its settings, before anything is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import UsageError
from .methods import DEFAULT_METHODS, DEFAULT_RATES, SCHEDULES, Method, parse_method, slug
from .records import digest
from .tasks import Task
from .training import Settings

VALIDATION_SHARE = 0.1
VERSION = 2  # of the run folder's layout and of what a run computes


@dataclass(frozen=True)
class Request:
    """What the user asked for; None: the task's own.

    Attributes:
        lr_grid: rates for every method that was named without an lr.
        model: the model's name, for the record and for `DEFAULT_RATES`.
        validation: share of the training set held out; None: a tenth if any method has several rates.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    lr_grid: tuple[float, ...] = ()
    model: str | None = None
    batch_size: int | None = None
    steps: int | None = None
    seeds: int = 3
    device: str = "cpu"
    dtype: str = "fp32"
    schedule: str | None = None
    eval_every: int | None = None
    record_every: int | None = None
    eval_size: int | None = 2000
    target: float | None = None
    choose: str = "score"
    validation: float | None = None
    threads: int | None = None
    checkpoint_seconds: float = 15.0
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Cell:
    """One run to make."""

    method: Method
    lr: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """A request with everything decided: what is written to config.json, and its runs."""

    task: Task
    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]
    settings: Settings
    request: Request
    target: float | None
    validation: int
    threads: int | None
    config: dict[str, Any]
    out: Path

    def run_config(self, cell: Cell) -> dict[str, Any]:
        shared = {k: v for k, v in self.config.items() if k not in ("methods", "lr_grid", "seeds", "choose", "target")}
        options = {key: repr(value) for key, value in sorted(cell.method.options.items())}
        own = {"method": cell.method.name, "options": options, "lr": cell.lr, "seed": cell.seed}
        return {**shared, **own, "schedule": cell.method.schedule or shared["schedule"]}

    def folder_name(self, cell: Cell) -> str:
        return f"{slug(cell.method.name)}-s{cell.seed}-{digest(self.run_config(cell))}"


def plan(request: Request, task: Task) -> Plan:
    """Check the whole request before anything is trained or written."""
    methods = tuple(parse_method(spec, DEFAULT_RATES.get(request.model or "")) for spec in request.methods)
    if not methods:
        raise UsageError("--methods: name at least one")
    schedule = request.schedule or task.schedule
    if schedule not in SCHEDULES:
        raise UsageError(f"--schedule {schedule}: choose from {', '.join(SCHEDULES)}")
    tried = {method: method.rates_to_try(request.lr_grid) for method in methods}
    named = list(task.model().named_parameters())
    for method, rates in tried.items():
        method.check(rates, named)
    cells = tuple(Cell(m, lr, seed) for m in methods for lr in tried[m] for seed in range(request.seeds))
    if len(
        {(c.method.name, str(sorted(c.method.options.items())), c.method.schedule, c.lr, c.seed) for c in cells}
    ) < len(cells):
        raise UsageError("--methods: the same method with the same options and rate is there twice")
    settings = make_settings(request, task)
    examples = len(task.data.train_inputs)
    share = request.validation
    if share is None:
        share = VALIDATION_SHARE if any(len(rates) > 1 for rates in tried.values()) else 0.0
    if not 0 <= share < 1:
        raise UsageError(f"--validation {share}: must be at least 0 and less than 1")
    validation = round(share * examples)
    if not validation and any(len(rates) > 1 for rates in tried.values()):
        raise UsageError("--validation 0: several rates need held-out examples to choose by")
    if not 1 <= settings.batch_size <= examples - validation:
        raise UsageError(
            f"--batch-size {settings.batch_size}: must be 1 to {examples - validation}, the training examples"
        )
    target = task.target if request.target is None else request.target
    if request.choose == "steps" and target is None:
        raise UsageError("--choose steps: there is no target to count steps to; pass --target")
    if not 0 <= request.checkpoint_seconds < float("inf"):
        raise UsageError(f"--checkpoint-seconds {request.checkpoint_seconds}: must be 0 or more seconds")
    threads = task.threads if request.threads is None else request.threads
    config = {
        "version": VERSION,
        "task": task.name,
        "model": request.model,
        "parameters": digest({name: [*p.shape] for name, p in named}),
        "source": task.source,
        "data": task.data.fingerprint(),
        "methods": list(request.methods),
        "lr_grid": list(request.lr_grid),
        "seeds": request.seeds,
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "device": settings.device.type,
        "dtype": settings.dtype,
        "schedule": settings.schedule,
        "eval_every": settings.eval_every,
        "record_every": settings.record_every,
        "eval_size": settings.eval_size,
        "validation": validation,
        "choose": request.choose,
        "target": target,
        "threads": threads or torch.get_num_threads(),
    }
    out = request.out or Path("runs") / f"compare-{slug(task.name)}-{digest(config)}"
    return Plan(task, methods, cells, settings, request, target, validation, threads, config, out)


def make_settings(request: Request, task: Task) -> Settings:
    steps = task.steps if request.steps is None else request.steps
    eval_every = request.eval_every or max(1, min(task.eval_every, steps))
    try:
        device = torch.device(request.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"--device {request.device}: {reason}") from None
    return Settings(
        steps=steps,
        batch_size=request.batch_size or task.batch_size,
        eval_every=eval_every,
        record_every=request.record_every or eval_every,
        eval_size=request.eval_size,
        dtype=request.dtype,
        device=device,
        schedule=request.schedule or task.schedule,
        checkpoint_seconds=request.checkpoint_seconds,
    )
