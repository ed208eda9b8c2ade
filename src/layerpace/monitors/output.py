"""Where a monitor's figures go: the run's folder, further sinks, and the user's scalars in memory."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.common.printable import printable
from layerpace.monitors import sinks
from layerpace.monitors.folder import MonitorFolder, beside, is_run, json_like
from layerpace.monitors.history import History, Pace
from layerpace.monitors.layout import Layout
from layerpace.monitors.processes import writes
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.recorder import Batch
from layerpace.monitors.run import Run, Series


class Output:
    """Takes batches of records, and scalars; from any thread.

    Args:
        out: the run's folder, "auto", or None. Unless this goes on with what it holds, a folder that has a run already
            stays as it is, and one beside it is made.
        others: sinks, or their names; of rank 0 alone in a distributed run.
        layout: of the model.
        settings: that the folder keeps.
        max_records: of each kind, in the folder and of scalars in memory.
        resume: go on in a folder that holds records.
        lock: held while something is taken or written.
    """

    def __init__(
        self,
        out: str | Path | None,
        others: Sequence[Any],
        layout: Layout,
        settings: Mapping[str, Any],
        max_records: int,
        resume: bool,
        lock: RLock,
    ) -> None:
        if isinstance(others, str) or not isinstance(others, Sequence):
            raise TypeError(f"sinks must be a list, such as ['tensorboard'], got {others!r}")
        self._lock = lock
        self._layout, self._settings, self._max_records = layout, json_like(settings), max_records
        if out == "auto" and resume:
            raise ValueError('resume=True goes on in a folder: name it with out=, which is "auto" now')
        self._sinks = [sinks.get(sink) for sink in others] if writes() else []
        self._scalars: dict[str, Series] = {}
        self._paces: dict[str, Pace] = {}
        self._keys: dict[tuple[int, tuple[str, ...], tuple[str, ...]], tuple[list[str], Tensor]] = {}
        self._folder: MonitorFolder | None = None
        self._closed = self._left = False
        self._said: set[str] = set()
        self._auto = out == "auto" and writes()
        self._kept_initial = 0  # tensors
        if out is not None and not self._auto and writes():
            self._folder = self._open(Path(out), resume)
            if self._folder.path != Path(out):
                warnings.warn(
                    f"layerpace.Monitor: {out} has a run already, so this one goes to {self._folder.path}; resume=True "
                    "would go on with the old one",
                    stacklevel=3,
                )

    @property
    def path(self) -> Path | None:
        return None if self._folder is None else self._folder.path

    def _open(self, path: Path, resume: bool) -> MonitorFolder:
        """The folder; where it has a run and this is another one, the next beside it that has none."""

        def made(place: Path) -> MonitorFolder:
            return MonitorFolder(place, self._settings, self._layout.layers, self._max_records, resume)

        folder = made(path) if resume else None
        places = beside(path)
        while folder is None:
            place = next(places)
            if is_run(place):
                continue
            try:
                folder = made(place)
            except (FileExistsError, BlockingIOError):  # another process has just made a run there
                if not place.is_dir():
                    raise
        for sink in self._sinks:
            sinks.settle(sink, folder.path)
        return folder

    def _ready(self) -> MonitorFolder | None:
        """The folder; one of the name "auto" is made when it is first needed."""
        if self._auto:
            self._auto = False
            with self._training_goes_on("no folder can be made for the run"):
                self._folder = self._open(Path("runs") / time.strftime("%Y-%m-%d-%H%M%S"), resume=False)
        return None if self._left else self._folder

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Take other settings in the place of those known so far."""
        with self._lock:
            self._settings = {**self._settings, **json_like(settings)}
            if self._folder is not None:
                self._folder.describe(self._settings)

    def write(self, batch: Batch) -> None:
        """Take records."""
        with self._lock:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        keys, places = self._keys_of(batch.source, batch.names)
        all_of_them = len(places) == batch.values.shape[2]
        values = (batch.values if all_of_them else batch.values.index_select(2, places)).flatten(1)
        made = self._ready()
        if made is not None:
            with self._training_goes_on(f"{made.path} cannot be written now"):
                made.records.log_many(keys, batch.steps, batch.times, values)
        if self._sinks:
            for step, moment, row in zip(batch.steps, batch.times, values.tolist(), strict=True):
                self._send({key: x for key, x in zip(keys, row, strict=True) if not math.isnan(x)}, step, moment)

    def _keys_of(self, source: int, quantities: tuple[str, ...]) -> tuple[list[str], Tensor]:
        """The keys of an optimizer's records, quantity by quantity, and the places of its layers."""
        own = self._layout.of_optimizer(source)
        key = source, quantities, tuple(own)
        if key not in self._keys:
            names, wanted = [layer.name for layer in self._layout.layers], set(own)
            places = [place for place, name in enumerate(names) if name in wanted]
            self._keys[key] = (
                [f"{q}/{names[p]}" for q in quantities for p in places],
                torch.tensor(places, device="cpu"),
            )
        return self._keys[key]

    def _send(self, values: Mapping[str, float], step: int, moment: float) -> None:
        for sink in list(self._sinks):
            failed = True
            with self._training_goes_on(f"the sink {sinks.name_of(sink)} is left out from now on"):
                sinks.log(sink, values, step, moment)
                failed = False
            if failed:
                self._sinks.remove(sink)

    @contextmanager
    def _training_goes_on(self, what: str) -> Iterator[None]:
        """A full disk or a lost connection is no reason to stop the training: say so once."""
        try:
            yield
        except Exception as error:
            if what not in self._said:
                self._said.add(what)
                warnings.warn(printable(f"layerpace.Monitor: {what}: {type(error).__name__}: {error}"), stacklevel=2)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the user's scalars."""
        for name in values:
            if name.split("/")[0] in QUANTITIES:
                raise ValueError(f"{name!r} is the name of a quantity of layers: call the scalar otherwise")
        with self._lock:
            for name, value in values.items():
                self._keep(name, value, step)
            made = self._ready()
            if made is not None:
                with self._training_goes_on(f"{made.path} cannot be written now"):
                    made.records.log(values, step)
            self._send(values, step, time.time())

    def _keep(self, name: str, value: float, step: int) -> None:
        pace = self._paces.setdefault(name, Pace())
        if pace.keeps():
            series = self._scalars.setdefault(name, Series([], []))
            series.steps.append(step)
            series.values.append(value)
            if len(series.steps) > self._max_records:
                pace.slow_down()
                del series.steps[1::2], series.values[1::2]

    def flush(self, initial: Callable[[], Mapping[str, Tensor]] | None, raises: bool = True) -> None:
        """Write what there is; the initial weights when there are more of them.

        Raises:
            OSError: it cannot be written; it is kept for the next time. Without ``raises`` that is a warning.
        """
        if not raises:
            with self._training_goes_on("records cannot be written now"):
                self.flush(initial)
            return
        self._layout.refresh()
        with self._lock:
            if self._folder is not None and not self._left:
                weights = {} if initial is None else initial()
                if len(weights) > self._kept_initial:
                    self._folder.save_initial(weights)
                    self._kept_initial = len(weights)
                self._folder.flush()
            for sink in self._sinks:
                sinks.flush(sink)

    def close(self) -> None:
        """Close sinks, and mark the folder as finished."""
        with self._lock:
            if self._folder is not None and not self._closed and not self._left:
                self._folder.finish()
            for sink in self._sinks:
                sinks.close(sink)
            self._closed = True

    def let_go(self) -> None:
        """Write nothing more: the folder is somebody else's."""
        with self._lock:
            self._left = True
            if self._folder is not None:
                self._folder.let_go()

    def after_fork(self, lock: RLock) -> None:
        """In a child of fork: folder and sinks are the parent's."""
        self._lock = lock
        self._auto, self._folder, self._sinks = False, None, []

    def truncate(self, last: Callable[[Iterable[str]], int]) -> None:
        """Drop what is too late; see `History.truncate`. Scalars have no layers."""
        for name, series in list(self._scalars.items()):
            kept = [place for place, at in enumerate(series.steps) if at <= last(())]
            self._scalars[name] = Series([series.steps[i] for i in kept], [series.values[i] for i in kept])
        if self._folder is not None:
            self._folder.records.truncate(lambda keys: last(key.partition("/")[2] for key in keys))

    def found(self) -> Run | None:
        """What the folder has been given so far; None: there is no folder."""
        return None if self._folder is None else self._folder.found()

    def initial(self) -> Mapping[str, Tensor]:
        """The initial weights that the folder keeps."""
        kept = None if self._folder is None else self._folder.initial()
        self._kept_initial = len(kept or {})
        return kept or {}

    def last_step(self, source: int) -> int:
        """The step of an optimizer's last record in the folder, kept or not; 0: there is none."""
        own = set(self._layout.of_optimizer(source))
        sets = () if self._folder is None else self._folder.records.sets
        return max((group.last for group in sets if own & {key.partition("/")[2] for key in group.keys}), default=0)

    def paces(self) -> dict[tuple[int, tuple[str, ...]], Pace]:
        """Which of the records in the folder were kept, by optimizer and quantities."""
        found = {}
        for group in () if self._folder is None else self._folder.records.sets:
            names = tuple(dict.fromkeys(key.partition("/")[0] for key in group.keys))
            source = self._layout.optimizer_of(key.partition("/")[2] for key in group.keys)
            found[source, names] = Pace(group.seen, group.stride, group.kept)
        return found

    def go_on(self, scalars: Mapping[str, Series]) -> None:
        """Take over the scalars of an earlier part of the training."""
        self._scalars = dict(scalars)

    def run(self, history: History) -> Run:
        """The run as it stands, in memory."""
        self._layout.refresh()
        name = "run" if self.path is None else self.path.name
        with self._lock:
            scalars = {key: Series(list(x.steps), list(x.values)) for key, x in self._scalars.items()}
            return Run(name, self._settings, list(self._layout.layers), history, scalars, self.path, self._closed)
