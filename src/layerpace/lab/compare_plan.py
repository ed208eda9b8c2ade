"""A request, checked in full, becomes a plan: every run with its settings, before anything is trained or written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .errors import UsageError
from .methods import DEFAULT_METHODS, DEFAULT_RATES, Method, parse_method, slug
from .records import digest
from .run_settings import MOST_RUNS, Options, Settings, check, decide, facts
from .tasks import Task

VALIDATION_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What the user asked for; None: the task's own.

    Attributes:
        lr_grid: rates for every method that was named without an lr.
        validation: share of the training set held out; None: a tenth if any method has several rates.
        shard: how processes share a model: "ddp" or "fsdp"; see `parallel`.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    lr_grid: tuple[float, ...] = ()
    seeds: int = 3
    choose: str = "score"
    shard: str = "ddp"
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
    config: dict[str, Any]
    out: Path

    @property
    def target(self) -> float | None:
        return self.settings.target

    @property
    def validation(self) -> int:
        """Training examples that are held out."""
        return self.settings.held_out

    def run_config(self, cell: Cell) -> dict[str, Any]:
        shared = {k: v for k, v in self.config.items() if k not in ("methods", "lr_grid", "seeds", "choose", "target")}
        options = {key: repr(value) for key, value in sorted(cell.method.options.items())}
        own = {"method": cell.method.name, "options": options, "lr": cell.lr, "seed": cell.seed}
        return {**shared, **own, "schedule": cell.method.schedule or shared["schedule"]}

    def folder_name(self, cell: Cell) -> str:
        return f"{slug(cell.method.name)}-s{cell.seed}-{digest(self.run_config(cell))}"


def plan(request: Request, task: Task) -> Plan:
    """Check the whole request before anything is trained or written."""
    check(vars(request))
    methods = tuple(parse_method(spec, DEFAULT_RATES.get(request.model or "")) for spec in request.methods)
    if not methods:
        raise UsageError("--methods: name at least one")
    tried = {method: method.rates_to_try(request.lr_grid) for method in methods}
    runs = sum(map(len, tried.values())) * request.seeds
    if runs > MOST_RUNS:
        raise UsageError(f"{runs:,} runs of {len(methods)} methods, their rates and --seeds: at most {MOST_RUNS:,}")
    cells = tuple(Cell(m, lr, seed) for m in methods for lr in tried[m] for seed in range(request.seeds))
    if len(
        {(c.method.name, str(sorted(c.method.options.items())), c.method.schedule, c.lr, c.seed) for c in cells}
    ) < len(cells):
        raise UsageError("--methods: the same method with the same options and rate is there twice")
    several = any(len(rates) > 1 for rates in tried.values())
    share = request.validation
    if share is None:
        share = VALIDATION_SHARE if several else 0.0
    settings = decide(replace(request, validation=share), task)
    if not settings.held_out and several:
        raise UsageError("--validation 0: several rates need held-out examples to choose by")
    if request.choose == "steps" and settings.target is None:
        raise UsageError("--choose steps: there is no target to count steps to; pass --target")
    model = task.model()
    for method, rates in tried.items():
        method.check([lr * settings.lr_scale for lr in rates], model, settings.device.type)
    known = facts(task, model.named_parameters())
    config = {
        "version": known["version"],
        "task": task.name,
        "model": request.model,
        "parameters": known["parameters"],
        "source": known["source"],
        "data": known["fingerprint"],
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
        "validation": settings.held_out,
        "choose": request.choose,
        "target": settings.target,
        "threads": settings.threads or torch.get_num_threads(),
        "accumulate": settings.accumulate,
        "warmup": settings.warmup,
        "lr_scale": settings.lr_scale,
    }
    out = request.out or Path("runs") / f"compare-{slug(task.name)}-{digest(config)}"
    return Plan(task, methods, cells, settings, request, config, out)
