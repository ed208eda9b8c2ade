"""How a training is asked for, and what comes of it: options, checked in full, become settings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import UsageError, one_line
from .parallel import own_device
from .records import digest
from .schedule import Schedule
from .tasks import Task

VERSION = 3  # of the run folder's layout and of what a run computes
DTYPES = ("fp32", "bf16")
SCALINGS = ("none", "linear", "sqrt")
MOST = 2**31 - 1
MOST_RUNS = 100_000  # of a comparison or a sweep: each is a folder, and what is checked before the first one starts
COUNTS = {  # least and most: the loss of every step is kept, and torch dies of threads that the system does not give
    "steps": (1, 10**8), "batch_size": (1, MOST), "threads": (1, 1024), "eval_every": (1, MOST), "eval_size": (1, MOST),
    "record_every": (1, MOST), "seeds": (1, 10_000), "seed": (0, 2**63 - 1), "accumulate": (1, MOST),
    "warmup": (0, MOST), "base_batch_size": (1, MOST),
}  # fmt: skip
NUMBERS = ("lr", "validation", "target", "checkpoint_seconds")
KINDS = ("cpu", "cuda")  # of devices; sums of float64 are not had on mps
WORDS = {"dtype": DTYPES, "lr_scaling": SCALINGS}
NEEDED = ("seed", "seeds", "accumulate", "warmup", "dtype", "lr_scaling", "checkpoint_seconds", "device")
LARGEST = int(sys.float_info.max)
TEXTS = ("task", "data", "model", "method", "device", "data_dir")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for of a training; None: the task's own.

    Attributes:
        model: the model's name, for the record and for `DEFAULT_RATES`.
        eval_size: test examples of an evaluation; None: all.
        validation: share of the training set that is held out, in [0, 1).
        target: score that steps are counted to.
        accumulate: parts in which a batch goes through the model.
        warmup: steps of linear warm-up, before the schedule.
        lr_scaling: how the rate follows the batch, from ``base_batch_size`` on: "none", "linear" or "sqrt".
        checkpoint_seconds: least time between checkpoints.
    """

    model: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    schedule: str | None = None
    device: str = "cpu"
    dtype: str = "fp32"
    threads: int | None = None
    eval_every: int | None = None
    eval_size: int | None = 2000
    record_every: int | None = None
    validation: float | None = None
    target: float | None = None
    accumulate: int = 1
    warmup: int = 0
    lr_scaling: str = "none"
    base_batch_size: int | None = None
    checkpoint_seconds: float = 15.0


@dataclass(frozen=True)
class Settings:
    """What all runs of a request share.

    Attributes:
        eval_every: steps between evaluations.
        record_every: steps between recordings of the layers' updates; the first step is recorded, too.
        eval_size: test (and held-out) examples of each evaluation, None for all; the end is scored on all.
        dtype: "bf16": autocast; weights stay float32.
        held_out: training examples that are kept for validation.
        target: a value of the metric, None for none.
        threads: CPU threads to train with, None for those that the process has.
        lr_scale: what learning rates are multiplied by.
        checkpoint_seconds: least time between checkpoints, 0 for one at every evaluation.
    """

    steps: int
    batch_size: int
    eval_every: int
    record_every: int
    eval_size: int | None
    dtype: str
    device: torch.device
    schedule: str
    held_out: int
    target: float | None
    threads: int | None
    accumulate: int
    warmup: int
    lr_scale: float
    checkpoint_seconds: float


def check(options: Mapping[str, Any]) -> None:
    """Raise a UsageError for a value of the wrong kind or out of range, by the name of its option."""
    for key, value in options.items():
        name = "--" + key.replace("_", "-")
        if value is None:
            if key in NEEDED:
                raise UsageError(f"{name}: needs a value")
        elif key in COUNTS:
            if isinstance(value, bool) or not isinstance(value, int):
                raise UsageError(f"{name} {value!r}: must be a whole number")
            low, high = COUNTS[key]
            if value < low:
                raise UsageError(f"{name} {brief(value)}: must be at least {low}")
            if value > high:
                raise UsageError(f"{name} {brief(value)}: must be at most {high}")
        elif key in NUMBERS:
            if not finite(value):
                raise UsageError(f"{name} {brief(value)}: must be a number")
            if key in ("lr", "checkpoint_seconds") and value < 0:
                raise UsageError(f"{name} {value}: must be 0 or more" + " seconds" * (key == "checkpoint_seconds"))
        elif key in WORDS:
            if value not in WORDS[key]:
                raise UsageError(f"{name} {value}: choose from {', '.join(WORDS[key])}")
        elif key == "schedule":
            try:
                Schedule.of(value)
            except ValueError as error:
                raise UsageError(f"{name} {value}: {error}") from None
        elif key in TEXTS and not isinstance(value, str):
            raise UsageError(f"{name} {value!r}: must be text")


def finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold, which whole numbers of JSON and TOML need not be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= LARGEST


def brief(value: Any) -> str:
    """A value for an error, which may be a number of thousands of digits."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a number of {value.bit_length()} bits"
    return repr(value)


def decide(options: Options, task: Task) -> Settings:
    """Fill in what the task says and check the whole.

    Raises:
        UsageError: a value out of range, or that this task, or this machine, cannot have.
    """
    check(vars(options))
    steps = options.steps or task.steps
    batch_size = options.batch_size or task.batch_size
    eval_every = options.eval_every or max(1, min(task.eval_every, steps))
    schedule = options.schedule or task.schedule
    check({"schedule": schedule})
    examples = len(task.data.train_inputs)
    share = options.validation or 0.0
    if not 0 <= share < 1:
        raise UsageError(f"--validation {share}: must be at least 0 and less than 1")
    held_out = round(share * examples)
    if not 1 <= batch_size <= examples - held_out:
        raise UsageError(f"--batch-size {batch_size}: must be 1 to {examples - held_out}, the training examples")
    if options.accumulate > batch_size:
        raise UsageError(f"--accumulate {options.accumulate}: must be 1 to {batch_size}, the batch size")
    if options.warmup >= steps:
        raise UsageError(f"--warmup {options.warmup}: must be 0 to {steps - 1}, below the number of steps")
    if options.target is not None and task.metric_name == "accuracy" and not 0 < options.target <= 1:
        raise UsageError(f"--target {options.target:g}: an accuracy between 0 and 1, such as 0.9")
    return Settings(
        steps=steps,
        batch_size=batch_size,
        eval_every=eval_every,
        record_every=options.record_every or eval_every,
        eval_size=options.eval_size,
        dtype=options.dtype,
        device=usable(options.device),
        schedule=schedule,
        held_out=held_out,
        target=task.target if options.target is None else options.target,
        threads=options.threads or task.threads,
        accumulate=options.accumulate,
        warmup=options.warmup,
        lr_scale=lr_scale(options, batch_size),
        checkpoint_seconds=options.checkpoint_seconds,
    )


def lr_scale(options: Options, batch_size: int) -> float:
    """What the learning rate is multiplied by: 1, batch / base, or the root of that."""
    if (options.lr_scaling == "none") != (options.base_batch_size is None):
        raise UsageError(
            "--lr-scaling linear or sqrt and --base-batch-size, the batch that the rate is meant for, go together"
        )
    if options.base_batch_size is None:
        return 1.0
    ratio = batch_size / options.base_batch_size
    return ratio if options.lr_scaling == "linear" else math.sqrt(ratio)


def usable(name: str) -> torch.device:
    """The device of a name; a UsageError if this machine does not have it, or if it cannot do what a step needs."""
    try:
        device = torch.device(own_device(name))
        if device.type not in KINDS or (device.type == "cpu" and device.index):
            raise RuntimeError("choose from cpu, cuda, cuda:1, ...")
        torch.ones(1, device=device, dtype=torch.float64).item()  # the sums of a step are of this kind
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"--device {name}: {one_line(error)[:120]}") from None
    return device


def facts(task: Task, named: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """What a run folder keeps of the task, so that a run goes on with nothing else: version, source, and digests.

    ``named`` are the model's parameters.
    """
    return {
        "version": VERSION,
        "source": task.source,
        "fingerprint": task.data.fingerprint(),
        "parameters": digest({name: [*p.shape] for name, p in named}),
    }
