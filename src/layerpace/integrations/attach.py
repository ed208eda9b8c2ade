"""What the integrations share: callback classes of libraries that may be missing, run folders, and going on."""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from layerpace.engine.common.checks import check_range, check_whole
from layerpace.engine.common.extras import how_to_install
from layerpace.engine.common.signatures import name_keywords
from layerpace.engine.sharding.collectives import is_distributed
from layerpace.layers.wrappers import FSDP1, is_a
from layerpace.monitors.follower import RECORDS
from layerpace.monitors.processes import from_writer, writes
from layerpace.monitors.quantities import QUANTITIES

if TYPE_CHECKING:
    from layerpace.monitors.monitor import Monitor

Kind = TypeVar("Kind")


def callback_classes(modules: Sequence[str], name: str, what: str, extra: str) -> tuple[type, ...]:
    """The callback classes that a callback must have as bases.

    A library that goes by several names has a class of its own under each, and its Trainer takes no other: the names
    that the program has imported count, else the first that can be.

    Raises:
        ImportError: none of them can be imported.
    """
    found = _classes(modules, name)
    if not found:
        raise ImportError(f"{what} needs {extra}: {how_to_install(extra)}")
    return found


def _classes(modules: Sequence[str], name: str) -> tuple[type, ...]:
    found = [sys.modules[module] for module in modules if sys.modules.get(module) is not None]
    for module in modules if not found else ():
        try:
            found = [importlib.import_module(module)]
            break
        except ModuleNotFoundError:
            continue
    return tuple(getattr(module, name) for module in found)


def callback_of(modules: Sequence[str], name: str, known: Collection[str]) -> Callable[[type[Kind]], type[Kind]]:
    """A decorator: the class has the library's callback class as a base, as far as the library is installed.

    A configuration file names classes, and their kind is looked at before anything is made. Its ``**options`` become
    those of `lp.Monitor` but for the ``known`` ones, for the same reason.
    """

    from layerpace.monitors.monitor import Monitor

    def decorate(cls: type[Kind]) -> type[Kind]:
        options = set(inspect.signature(Monitor).parameters) - set(known)
        for made_by in (cls.__new__, cls.__init__):
            name_keywords(made_by, Monitor.__init__, options)
        bases = _classes(modules, name)
        space = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        return type(cls.__name__, (cls, *bases), space) if bases else cls

    return decorate


_MADE: dict[tuple[type, tuple[type, ...]], type] = {}


def based_on(cls: type[Kind], bases: tuple[type, ...]) -> type[Kind]:
    """``cls`` with further bases, under its own name; itself if it has them."""
    missing = tuple(base for base in bases if not issubclass(cls, base))
    if not missing:
        return cls
    if (cls, missing) in _MADE:
        return _MADE[cls, missing]
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "_own_class": cls}
    made = _MADE[cls, missing] = type(cls.__name__, (cls, *missing), names)
    return made


def own_class(callback: object) -> type:
    """The class of a callback without the bases that `based_on` has put to it: the one that pickle finds by name."""
    cls: type = type(callback).__dict__.get("_own_class", type(callback))
    return cls


def remake(cls: type[Kind]) -> Kind:
    """A callback of that class before ``__init__``; what unpickling and copying start from."""
    return cls.__new__(cls)


def check_options(what: str, every: int, options: Mapping[str, Any]) -> None:
    """Raise for a bad ``every`` or an option that `lp.Monitor` does not have: at once, not when training starts.

    Raises:
        TypeError: an unknown option, or ``every`` is not a whole number.
        ValueError: ``every`` is below 1.
    """
    from layerpace.monitors.monitor import Monitor

    check_range("every", every, 1)
    check_whole("every", every)
    known = [name for name in inspect.signature(Monitor).parameters if name not in ("model", "optimizer", "every")]
    for name in options:
        if name not in known:
            raise TypeError(f"{what} got an unknown option {name!r}; it takes every, {', '.join(known)}")


def check_layers(what: str, model: nn.Module) -> None:
    """Raise for a model whose parameters have no layers left that could be watched.

    Raises:
        NotImplementedError: FullyShardedDataParallel (FSDP1) has flattened them.
    """
    if any(is_a(module, FSDP1) for module in model.modules()):
        raise NotImplementedError(
            f"{what} cannot watch a model in FullyShardedDataParallel (FSDP1), whose flat parameters have no layers "
            "left: shard it with torch.distributed.fsdp.fully_shard (FSDP2) instead, or leave the callback out"
        )


def is_spread(model: nn.Module) -> bool:
    """Whether some parameters are DTensors: every process must make the monitor then, else rank 0 alone."""
    return any(is_distributed(param) for param in model.parameters())


def open_monitor(
    model: nn.Module,
    optimizers: Any,
    every: int,
    options: Mapping[str, Any],
    folder: Path | None,
    state: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> Monitor:
    """A Monitor of a training that begins, or goes on from a checkpoint.

    Where parameters are DTensors every process must call it. Rank 0 decides then, and alone touches folders: other
    ranks get no folder, and need no state.

    Args:
        model: the module to watch.
        optimizers: an optimizer or a list of them.
        every: steps between records.
        options: those of `lp.Monitor` that the user gave; ``out`` among them wins over ``folder``.
        folder: where the library keeps the files of the run. A training that begins gets a new folder beside it if it
            has records; one that goes on appends to its records, to a copy of them if the library has moved on to
            another place. None: no files.
        state: what `saved_state` gave for the checkpoint; None: the training begins.
        settings: of the library, for the run's record.
    """
    from layerpace.monitors.monitor import Monitor

    options = dict(options)
    options["settings"] = {**settings, **(options.get("settings") or {})}
    first, spread = writes(), is_spread(model)
    if "out" not in options:
        earlier = None if state is None else state["run"]
        options["out"] = _place(folder, earlier) if first and folder is not None else None
    resume = first and state is not None and has_records(options["out"])
    if spread:
        resume, counts = from_writer((resume, None if state is None else state["monitor"]["counts"]))
        if not first:  # the initial weights come from rank 0, too
            state = None if counts is None else {"monitor": {"counts": counts, "initial": {}}}
    if resume:
        options["resume"] = True
    monitor = Monitor(model, optimizers, every=every, **options)
    if state is not None:
        monitor.load_state_dict(state["monitor"])
    return monitor


def saved_state(monitor: Monitor) -> dict[str, Any]:
    """For a checkpoint: plain values and tensors, which load with ``weights_only=True``."""
    path = monitor.run.path
    return {"run": None if path is None else str(Path(path).resolve()), "monitor": monitor.state_dict()}


def _place(folder: Path, earlier: str | None) -> Path:
    """``folder`` or one beside it; with the earlier records if there are any, else empty."""
    if earlier is None or not has_records(earlier):
        return _unused(folder)
    old = Path(earlier)
    if old.parent.resolve() == folder.parent.resolve():
        return old
    new = _unused(folder)
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("DONE"), dirs_exist_ok=True)
    return new


def _unused(folder: Path) -> Path:
    place, number = folder, 1
    while has_records(place):
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    return place


def has_records(folder: Any) -> bool:
    """Whether ``folder`` is a path under which a run is recorded."""
    return isinstance(folder, (str, Path)) and (Path(folder) / RECORDS).exists()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that JSON can hold as they are."""
    values = {name: value.value if isinstance(value, Enum) else value for name, value in settings.items()}
    return {name: value for name, value in values.items() if isinstance(value, (str, bool, int, float))}


def scalar_name(name: str) -> str:
    """The name for a scalar that a library logs: its own, unless layers have a quantity of that name."""
    return f"logged_{name}" if name.split("/")[0] in QUANTITIES else name
