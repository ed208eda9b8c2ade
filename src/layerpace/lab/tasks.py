"""What is trained: a `Task` is data, a model, a loss and a metric.

Your own is a function that returns one, named on the command line, with literals for its arguments if it takes any:

    layerpace compare --task my_package.my_module:my_task
    layerpace compare --task "path/to/file.py:my_task(noise=0.1)"
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Dataset, Warn, load, to_stderr
from .errors import LabError, UsageError, one_line
from .models import DEFAULT_MODEL, MODELS
from .references import Reference


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target's, else 0: shape [N]; its mean is the accuracy."""
    return (outputs.argmax(1) == targets).float()


@dataclass(frozen=True)
class Task:
    """One learning problem.

    Attributes:
        name: for folders and titles.
        data: a `Dataset`: training and test inputs and targets as tensors.
        model: makes a freshly initialised model, all its randomness from torch's global generator; it
            is called once a run, after the run's seed is set, so that every method starts alike.
        loss: (outputs, targets) -> scalar tensor, the mean over the batch.
        metric: (outputs, targets) -> [N], a figure for each example, higher is better; the lab reports
            its mean.
        metric_name: what that mean is called.
        augment: (inputs, generator) -> inputs, applied to every training batch; its randomness must
            come from the (CPU) generator alone, so that all methods see the same batches.
        batch_size, steps, eval_every, schedule, target: what `compare` uses when not told otherwise. `target` is a
            value of the metric.
        threads: CPU threads to train with, None for one a core; tiny models are fastest with 1.
        source: where the task came from and a digest of that file; `from_reference` sets it, and a run folder made
            with another is not gone on with.
    """

    name: str
    data: Dataset
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    metric: Callable[[Tensor, Tensor], Tensor] = correct
    metric_name: str = "accuracy"
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    batch_size: int = 128
    steps: int = 200
    eval_every: int = 10
    schedule: str = "constant"
    target: float | None = None
    threads: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Defaults:
    batch_size: int
    steps: int
    eval_every: int
    target: float
    schedule: str = "constant"
    threads: int | None = None


DEFAULTS = {
    "digits": Defaults(batch_size=64, steps=200, eval_every=10, target=0.9, schedule="linear", threads=1),
    "mnist": Defaults(batch_size=500, steps=200, eval_every=10, target=0.9),
    "fashion-mnist": Defaults(batch_size=500, steps=400, eval_every=20, target=0.8),
    "cifar10": Defaults(batch_size=128, steps=2000, eval_every=100, target=0.5),
    "cifar100": Defaults(batch_size=128, steps=2000, eval_every=100, target=0.2),
    "tiny-imagenet": Defaults(batch_size=128, steps=2000, eval_every=200, target=0.1),
    "imagenet64": Defaults(batch_size=400, steps=10_000, eval_every=1000, target=0.1),
}


def built_in(data: str, model: str | None, data_dir: Path | None, warn: Warn = to_stderr) -> Task:
    """The task of a data set's and a model's name (None: the model that goes with the data)."""
    if data not in DEFAULTS:
        raise UsageError(f"unknown data set {data!r}: choose from {', '.join(DEFAULTS)}")
    model = model or DEFAULT_MODEL[data]
    if model not in MODELS:
        raise UsageError(f"unknown model {model!r}: choose from {', '.join(MODELS)}")
    dataset = load(data, data_dir, warn)
    defaults = DEFAULTS[data]
    return Task(
        name=f"{data}-{model}" if model != DEFAULT_MODEL[data] else data,
        data=dataset,
        model=partial(MODELS[model], dataset.input_shape, dataset.classes),
        batch_size=defaults.batch_size,
        steps=defaults.steps,
        eval_every=defaults.eval_every,
        schedule=defaults.schedule,
        target=defaults.target,
        threads=defaults.threads,
    )


def from_reference(reference: str) -> Task:
    """The task that `package.module:function` or `path/to/file.py:function(noise=0.1)` returns.

    Raises:
        UsageError: in one line: no such form, file or function, an argument that it does not take, or what it raises.
    """
    with _in_one_line(reference):
        module, parsed = _imported(reference)
        function = getattr(module, parsed.name, None)
        if not callable(function):
            raise UsageError(f"{parsed.place} has no function {parsed.name!r}")
        parsed.check(function)
        task = function(**parsed.arguments)
    if not isinstance(task, Task):
        raise UsageError(f"--task {reference}: {parsed.name}() returned {type(task).__name__}, not layerpace.lab.Task")
    return replace(task, source=f"{reference} {source_digest(module)}")


def import_module_of(reference: str) -> None:
    """Import the module of a task, and make none: it may register directions and rules.

    Raises:
        UsageError: as `from_reference` does.
    """
    with _in_one_line(reference):
        _imported(reference)


def _imported(reference: str) -> tuple[ModuleType, Reference]:
    parsed = Reference.of(reference)
    place = parsed.place
    return from_file(Path(place)) if place.endswith(".py") else from_module(place), parsed


@contextmanager
def _in_one_line(reference: str) -> Iterator[None]:
    """An error in the block says which task it is of, in one line."""
    try:
        yield
    except Exception as error:  # whatever a user's file raises
        if isinstance(error, LabError) and not isinstance(error, UsageError):  # such as data that are not at hand
            raise
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        raise UsageError(f"--task {reference}: {kind}{one_line(error)}") from error


def source_digest(module: ModuleType) -> str:
    """Changes when the file of the task does: its runs are others then."""
    file = getattr(module, "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def from_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not search the current folder
    return importlib.import_module(name)


def from_file(path: Path) -> ModuleType:
    name = f"layerpace_task_{path.stem}"  # not the stem: random.py must not take the place of `random`
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
