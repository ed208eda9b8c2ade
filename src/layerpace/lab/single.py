"""One training, as `layerpace train` and sweeps make it: its config, which says all of it, and its run.

    resolve(request) -> config        checked in full, every default filled in
    run(config, folder) -> result     made, or gone on with

A request has the long options of `layerpace train`, with underscores; a config has them all, and what it takes to know
the task again. It is JSON-like, and resolving it gives it back.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .batches import split
from .data import to_stderr
from .errors import UsageError
from .methods import DEFAULT_RATES, Method, guess, parse_method, slug, split_outside_brackets
from .models import DEFAULT_MODEL
from .parallel import Team, is_main
from .records import RunFolder, changes, digest
from .references import Reference
from .reproducible import reproducible
from .run_settings import Options, Settings, check, decide, facts
from .stopping import StopSignals
from .tasks import Task, built_in, from_reference, import_module_of
from .training import OnPoint, Run

DEFAULTS: dict[str, Any] = {
    "task": None,
    "data": None,
    "model": None,
    "data_dir": None,
    "method": "adam",
    "lr": None,
    "seed": 0,
    **{field.name: field.default for field in fields(Options)},
    "validation": 0.0,
}
ELSEWHERE = ("data_dir", "checkpoint_seconds")  # of a request, and not of a config: they do not change the result
FACTS = ("name", "version", "source", "fingerprint", "parameters")  # of a config, and not of a request


@dataclass(frozen=True)
class Training:
    """A config with its task, method and settings."""

    config: dict[str, Any]
    task: Task
    method: Method
    settings: Settings

    @property
    def name(self) -> str:
        """Of its folder: TASK-METHOD-sSEED-DIGEST."""
        config = self.config
        return f"{slug(self.task.name)}-{slug(self.method.name)}-s{config['seed']}-{digest(config, 12)}"


def resolve(request: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a request: every default filled in, and digests of the data, the task's source and the model.

    Raises:
        UsageError: an unknown key, or a value that is wrong for any training or for this one.
        LabError: the data are not at hand.
    """
    return prepare(request).config


def run(
    config: Mapping[str, Any],
    folder: Path,
    *,
    device: str | None = None,
    data_dir: str | Path | None = None,
    checkpoint_seconds: float = DEFAULTS["checkpoint_seconds"],
    signals: StopSignals | None = None,
    on_point: OnPoint | None = None,
    team: Team | None = None,
) -> dict[str, Any]:
    """Make a training in ``folder``, or go on with it, in this process, and return what its DONE holds.

    Args:
        config: from `resolve`, on this machine or another one.
        folder: of the run; made if need be.
        device: such as "cuda:1"; None: the config's, which is "cpu" or "cuda".
        data_dir: folder that holds the data; None: $LAYERPACE_DATA, or the user's cache.
        checkpoint_seconds: least time between checkpoints.
        signals: what tells the run to stop; None: its own, for SIGINT and SIGTERM.
        on_point: called with (steps done, score) at every evaluation.
        team: the processes that make it together, each with this call; None: this one alone.

    Raises:
        UsageError: the folder is another run's, or the task is not what the config says.
        Stopped: a signal came; there is a checkpoint.
    """
    here = {"device": device or config["device"], "data_dir": None if data_dir is None else str(data_dir)}
    team = team or Team()
    training = team.in_turn(lambda: prepare({**config, **here, "checkpoint_seconds": checkpoint_seconds}))
    changed = changes(config, training.config)
    if changed:
        raise UsageError(f"the task, or the version of layerpace, is not the one of the run's config: {changed}")
    with nullcontext(signals) if signals is not None else StopSignals() as heard:
        return make(training, folder, heard, on_point, team)


def make(training: Training, path: Path, signals: StopSignals, on_point: OnPoint | None, team: Team) -> dict[str, Any]:
    """Train, unless the folder holds the result already."""
    config, settings = training.config, training.settings

    def finished() -> dict[str, Any] | None:
        folder = RunFolder(path, config)
        changed = changes(folder.kept(), config)
        if changed:
            raise UsageError(f"{path} holds another run: {changed}")
        return folder.result()

    result = team.broadcast(finished)
    if result is not None:
        return result
    task = replace(training.task, data=training.task.data.to(settings.device))
    indices = split(len(task.data.train_inputs), settings.held_out)
    folder = RunFolder(path, config, make=False)
    shown = on_point if on_point is not None and team.first else lambda step, score: None
    with reproducible(settings.threads):
        made = Run(task, training.method, config["lr"], config["seed"], settings, folder, indices, team)
        return made.train(signals, shown)


def options_of(request: Mapping[str, Any]) -> tuple[dict[str, Any], Method]:
    """The options of a request, or a config, and its method: all that can be checked without the task."""
    unknown = [key for key in request if key not in (*DEFAULTS, *FACTS)]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}{guess(unknown[0], DEFAULTS)}; known: {', '.join(DEFAULTS)}")
    options = DEFAULTS | {key: value for key, value in request.items() if key in DEFAULTS}
    check(options)
    for key in ("method", "validation"):
        if options[key] is None:
            options[key] = DEFAULTS[key]
    if options["task"] is None:
        options["data"] = options["data"] or "digits"
        options["model"] = options["model"] or DEFAULT_MODEL.get(options["data"])
    elif any(options[key] is not None for key in ("data", "model", "data_dir")):
        raise UsageError("--task brings its own data and model: leave out --data, --data-dir and --model")
    with of_one_method():
        method = method_of(options["method"], options["model"], options["task"])
    rates = {*method.rates, *([options["lr"]] if options["lr"] is not None else [])}
    if len(rates) > 1:
        raise UsageError(f"--method {method.spec}: one training has one learning rate, got {sorted(rates)}")
    options["lr"] = float(*rates) if rates else method.default_lr
    options["method"] = bare(method.spec)
    options["schedule"] = method.schedule or options["schedule"]
    return options, method


def method_of(spec: str, model: str | None, task: str | None) -> Method:
    """The method; where its name is not known, perhaps the module of the task registers it."""
    rates = DEFAULT_RATES.get(model or "")
    try:
        return parse_method(spec, rates)
    except UsageError:
        if task is None:
            raise
    import_module_of(task)
    return parse_method(spec, rates)


def prepare(request: Mapping[str, Any]) -> Training:
    """Check a request, or a config, and load its task."""
    options, method = options_of(request)
    places = options["data_dir"], os.environ.get("LAYERPACE_DATA"), stamp(options["task"])
    task, known = loaded(options["task"], options["data"], options["model"], *places)
    settings = decide(Options(**{field.name: options[field.name] for field in fields(Options)}), task)
    with of_one_method():
        method.check([options["lr"] * settings.lr_scale], task.model(), settings.device.type)
    for key in ("steps", "batch_size", "schedule", "eval_every", "record_every", "threads", "target"):
        options[key] = getattr(settings, key)
    options["device"] = settings.device.type
    kept = {key: value for key, value in options.items() if key not in ELSEWHERE}
    return Training({**kept, "name": task.name, **known}, task, method, settings)


@contextmanager
def of_one_method() -> Iterator[None]:
    """An error in the block names the option that has one method."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace("--methods", "--method")) from None


def bare(spec: str) -> str:
    """A method as it is written, without its learning rate and schedule, which have keys of their own."""
    own, *others = [part.strip() for part in split_outside_brackets(spec, ";")] or [""]
    name, _, text = own.partition(":")
    rest = [item for item in split_outside_brackets(text) if not re.match(r"(lr|schedule)=", item)]
    return "; ".join([f"{name}:{','.join(rest)}" if rest else name, *others])


def stamp(reference: str | None) -> float | None:
    """When the file of a task was changed; None: it has none of its own."""
    try:
        path = Path(Reference.of(reference or "").place)
    except UsageError:  # `loaded` says so
        return None
    return path.stat().st_mtime if path.suffix == ".py" and path.is_file() else None


@functools.lru_cache(maxsize=2)  # a sweep's runs mostly share their task
def loaded(
    reference: str | None, data: str, model: str, data_dir: str | None, environment: str | None, stamp: float | None
) -> tuple[Task, dict[str, Any]]:
    """A task, and its facts."""
    folder = Path(data_dir) if data_dir else None
    warn = to_stderr if is_main() else lambda message: None
    task = from_reference(reference) if reference is not None else built_in(data, model, folder, warn)
    return task, facts(task, task.model().named_parameters())
