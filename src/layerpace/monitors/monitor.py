"""`Monitor`: how fast every layer trains, live, with any optimizer."""

from __future__ import annotations

import atexit
import contextlib
import os
import reprlib
import sys
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from layerpace.engine.common.checks import check_choice, check_whole
from layerpace.monitors import lock
from layerpace.monitors.arguments import number, rotation_spacing, unwrapped
from layerpace.monitors.feedback import Feedback
from layerpace.monitors.foreign import ForeignWatcher
from layerpace.monitors.history import History
from layerpace.monitors.layout import Detached, Layout
from layerpace.monitors.moments import SecondMoments
from layerpace.monitors.ours import OursWatcher
from layerpace.monitors.output import Output
from layerpace.monitors.processes import from_writer
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.recorder import Pending, Recorder
from layerpace.monitors.rotation import DTYPES, Rotation
from layerpace.monitors.run import Run
from layerpace.monitors.settings import settings_of
from layerpace.monitors.watchers import Numbers, Watcher
from layerpace.optim.base import Layerwise

if TYPE_CHECKING:
    from layerpace.monitors.diagnose import Finding
    from layerpace.monitors.equivalent import Rates

LATER = 1000  # from this step on the rotation curve is read less often
NUMBERS = 1 << 25  # of a kind that are kept at most, about 4 bytes each in memory and 10 on disk
# Records are written as they come while that takes next to no time: FLUSH_FREE seconds in all, and then a share of
# FLUSH_SHARE of the training. They wait for FLUSH_SECONDS at most.
FLUSH_FREE, FLUSH_SHARE, FLUSH_SECONDS = 0.1, 0.005, 5.0


# Monitors that nobody has closed: what they have recorded is written when they go, or the process ends.
_OPEN: weakref.WeakSet[Monitor] = weakref.WeakSet()


@atexit.register
def _flush_all(*_: object) -> None:
    for monitor in list(_OPEN):
        monitor._flush_quietly()


def _after_fork() -> None:
    """A child of fork has a copy of every monitor; records and files are the parent's."""
    lock.after_fork()
    for monitor in list(_OPEN):
        monitor._leave_to_parent()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _flush_after_cells() -> None:
    """In a notebook what a cell has recorded is written by its end, for whoever reads the folder next."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and _flush_all not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _flush_all)


class Monitor:
    """Records how fast each layer trains, at every ``every``-th step of an optimizer.

    What is recorded is listed in `layerpace.monitors.quantities`: relative updates, the angle of a step, the rotation
    curve, trust ratios, norms. With an optimizer of layerpace the step adds the sums up as it goes. With any other,
    the weights are copied before a recorded step (after its closure) and compared after it, which takes about as long
    as the step, and one copy of the weights. Nothing waits for the device.

    Steps are calls of ``optimizer.step`` that return, 1, 2, ...; the first one is always recorded. Steps that
    GradScaler skips, and accumulation, which makes none, leave no record. What is read is what was recorded up to then,
    from any thread.

    A copy (``copy.deepcopy`` of a model that holds its monitor, pickle, a child of fork) is detached: it has the
    records up to then, watches nothing, and writes nothing. While a monitor is open no other process writes to its
    folder.

    Where parameters are sharded (FSDP2, tensor parallelism) the figures are those of whole layers, and rank 0 writes
    them. Every process must make the monitor then, and resume it or load its state: a record takes one all-reduce for
    each process group, and the rotation curve one more where it is read.

    Args:
        model: the network; names of layers are those of its parameters. A tensor that it has twice is one layer.
        optimizer: a torch optimizer, or several of one model. Wrappers that hold one under ``.optimizer`` (accelerate,
            Lightning) are looked through.
        every: steps between records, >= 1.
        out: the run's folder, for ``layerpace report`` and ``layerpace watch``. One that has a run already is left as
            it is, with a warning: runs/first-2 is made beside runs/first. "auto": runs/DATE-TIME, made at the first
            record; None: nothing is written. In a distributed run rank 0 writes.
        sinks: further places for the figures: objects with ``log(values, step)``, functions of the two, a
            SummaryWriter, or the names of those in `layerpace.monitors.sinks`.
        rotation_every: steps between readings of the cosine distance, a multiple of ``every``; None: ``every``, or so
            many times it that there are at least 50 between, and 200 after step 1000. A reading takes a pass over the
            weights.
        initial: what the initial weights are kept in, on the CPU: "fp32", "bf16" (half the memory, exact to 1e-6), or
            None: no rotation curve.
        second_moment: record percentiles of the second moment.
        max_records: of each kind (an optimizer, the same quantities) that are kept in memory and on disk, >= 2. When
            there are more, every second one goes, and from then on only every second one is kept, and so on. A model of
            thousands of layers keeps fewer.
        resume: go on in a folder that holds records already.
        settings: JSON-like; added to those that the folder keeps.

    Attributes:
        history: the records.
        path: the folder; None: there is none (yet).

    Raises:
        TypeError: not a module, not an optimizer, or ``sinks`` is no list.
        ValueError: a value out of range.
        FileExistsError: ``out`` is a file.
        BlockingIOError: ``resume``, and another process writes to ``out``.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2, bias=False)
        >>> optimizer = lp.PercentDelta(model.parameters(), lr=0.01, momentum=0)  # or any of torch's
        >>> with lp.Monitor(model, optimizer, every=1, out=None) as monitor:
        ...     model(torch.ones(1, 4)).sum().backward()
        ...     optimizer.step()
        >>> list(monitor.latest())
        ['weight']
        >>> 0 < monitor.latest()["weight"]["relative_update_l1"] <= 0.01
        True
    """

    _copied: list[int] | None = None  # step counts of a copy

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        every: int = 10,
        *,
        out: str | Path | None = "auto",
        sinks: Sequence[Any] = (),
        rotation_every: int | None = None,
        initial: str | None = "fp32",
        second_moment: bool = False,
        max_records: int = 1000,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"Monitor needs a torch.nn.Module, got {type(model).__name__}")
        every, max_records = check_whole("every", every, 1), check_whole("max_records", max_records, 2)
        spacing = rotation_spacing(rotation_every, every)
        if initial is not None:
            check_choice("initial", initial, tuple(DTYPES))
        optimizers = unwrapped(optimizer)
        self.every, self._rotation_every = every, spacing
        self._layout = Layout(model, optimizers)
        max_records = min(max_records, max(2, NUMBERS // (len(QUANTITIES) * max(1, len(self._layout.layers)))))
        self._moments = SecondMoments(self._layout) if second_moment else None
        self._rotation = None if initial is None else Rotation(self._layout, initial)
        self.history = History([layer.name for layer in self._layout.layers], max_records)
        self._waits, self._given = self._layout.waits, dict(settings or {})
        described = settings_of(model, optimizers, every) | self._given
        self._lock = RLock()  # held by whoever reads records or writes them
        self._output = Output(out, sinks, self._layout, described, max_records, resume, self._lock)
        self._recorder = Recorder(self._layout, self.history, self._output.write, self._lock)
        self.history.follow(self._recorder.read)
        self._due_at = time.monotonic()  # when records are written next
        self._flushing: float | None = None  # seconds that it has taken, but for the first time
        self._watchers: list[Watcher] = []
        try:
            self._watchers += [self._watcher(optimizer) for optimizer in optimizers]
            if resume:
                self._resume()
        except BaseException:
            self.abandon()
            raise
        for other in list(_OPEN):
            if self.path is not None and other.path is not None and other.path.resolve() == self.path.resolve():
                other.abandon()  # a folder has one writer: the last that was told to go on in it
        self._closed = False
        _OPEN.add(self)
        _flush_after_cells()

    def _watcher(self, optimizer: Optimizer) -> Watcher:
        kind = OursWatcher if isinstance(optimizer, Layerwise) else ForeignWatcher
        return kind(optimizer, self._layout, self._due, self._seen)  # type: ignore[arg-type]

    # A step

    def _due(self, step: int) -> bool:
        grown = self._layout.grown()
        if self._waits:
            self._waits = self._layout.waits
            if not self._waits:
                grown = True
                self._layout.refresh()
                optimizers = [watcher.optimizer for watcher in self._watchers]
                self._output.describe(settings_of(self._layout.model, optimizers, self.every) | self._given)
        if grown and self._rotation is not None:
            self._rotation.add()  # before the first step of what was added
        return step == 1 or step % self.every == 0

    def _seen(self, watcher: Watcher, numbers: list[Numbers] | None) -> None:
        """Take what a step left; None: it was not measured."""
        if not numbers:
            return
        step = watcher.count
        params = watcher.measured
        spacing = self._rotation_every[int(step > LATER)]
        if self._rotation is not None and (step == 1 or step % spacing == 0):
            numbers += self._rotation.read(params)
        if self._moments is not None:
            numbers += self._moments.read(watcher.optimizer, params)
        self._recorder.add(Pending(self._watchers.index(watcher), step, time.time(), numbers))
        if time.monotonic() >= self._due_at:
            self._flush(wait=False)

    # What was recorded

    @property
    def step(self) -> int:
        """Steps of the first optimizer that were seen."""
        return self._counts[0]

    @property
    def _counts(self) -> list[int]:
        return [watcher.count for watcher in self._watchers] if self._copied is None else self._copied

    @property
    def path(self) -> Path | None:
        """The run's folder; None: there is none, or nothing has been recorded yet."""
        return self._output.path

    @property
    def skipped(self) -> int:
        """Recorded steps that GradScaler held back; they are in no record."""
        self._recorder.read()
        return self._recorder.skipped

    def latest(self) -> dict[str, dict[str, float]]:
        """{layer: {quantity: value}} of the last record; waits for the device.

        What is not read in every record (the cosine distance, percentiles) has its last value. A quantity that is not
        defined is left out; one that is not finite is inf.
        """
        latest = self._recorder.latest()
        self._flush_soon()
        return latest

    @property
    def run(self) -> Run:
        """All of it up to now, for `layerpace.monitors.plots`, the report and ``diagnose``."""
        history = self.history.copy()
        self._flush_soon()
        return self._output.run(history)

    def diagnose(self) -> list[Finding]:
        """What seems wrong with the training, worst first; see `layerpace.monitors.diagnose`."""
        from layerpace.monitors.diagnose import diagnose

        return diagnose(self.run)

    def equivalent_rates(self) -> Rates:
        """The rates at which LAMB, LARS, PercentDelta and Layca move layers as this training does; see
        `layerpace.monitors.equivalent_rates`.
        """
        from layerpace.monitors.equivalent import equivalent_rates

        return equivalent_rates(self.run)

    def feedback(self, classes: Tensor, layers: Sequence[str | nn.Module] | None = None) -> Feedback:
        """Record the silhouette score of what layers get back, in the passes made within it::

            with monitor.feedback(targets):
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()

        It belongs to the step that follows. See `layerpace.monitors.feedback.Feedback`; it waits for the device, and
        takes time that grows with the square of the batch.

        Args:
            classes: int [examples] of the batch.
            layers: names of layers or modules, or modules; None: all that hold a tensor with two or more dimensions.
        """
        return Feedback(
            self._layout,
            classes,
            layers,
            lambda numbers: self._recorder.add(Pending(0, self.step + 1, time.time(), numbers)),
        )

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers of your own, such as the loss, under the current step or another.

        A tensor among them waits for its device.
        """
        step = self.step if step is None else check_whole("step", step)
        self._output.log({name: number(value) for name, value in values.items()}, step)
        self._flush_soon()

    def flush(self) -> None:
        """Write all records; waits for the device."""
        self._flush(wait=True)

    def _flush(self, wait: bool) -> None:
        if not self._lock.acquire(blocking=wait):
            return  # another thread is at it
        try:
            begun = time.monotonic()
            self._recorder.read(wait)
            self._output.flush(None if self._rotation is None else self._rotation.state, wait)
            ended = time.monotonic()
            first = self._flushing is None  # which writes the initial weights
            self._flushing = 0.0 if self._flushing is None else self._flushing + ended - begun
            pause = 0.0 if first or self._flushing < FLUSH_FREE else (ended - begun) / FLUSH_SHARE
            self._due_at = ended + min(pause, FLUSH_SECONDS)
        finally:
            self._lock.release()

    def _flush_soon(self) -> None:
        """Write what waits, unless that was done a moment ago: somebody looks at the run, and may at its folder."""
        if not self._closed and time.monotonic() >= self._due_at:
            self._flush(wait=False)

    def close(self) -> None:
        """Stop watching, write what there is, and mark the run as finished."""
        for watcher in self._watchers:
            watcher.detach()
        self.flush()
        self._output.close()
        self._closed = True
        _OPEN.discard(self)

    def abandon(self) -> None:
        """Stop watching, and write nothing more: the folder stays as it is, as after a kill."""
        for watcher in self._watchers:
            watcher.detach()
        self._output.let_go()
        self._closed = True
        _OPEN.discard(self)

    def _flush_quietly(self) -> None:
        if not self._recorder.recorded:  # nothing is lost, and somebody else may have the folder by now
            return
        with contextlib.suppress(Exception):  # the folder may be gone, and nobody is there to be told
            self.flush()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._flush_quietly()

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        state = {"every": self.every, "rotation_every": self._rotation_every, "counts": self._counts}
        return state | {"run": self.run, "skipped": self.skipped}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """A copy: all that was recorded, nothing that watches or writes."""
        run: Run = state["run"]
        self.every, self._rotation_every, self.history = state["every"], state["rotation_every"], run.history
        self._layout, self._lock = Detached(run.layers), RLock()
        limit = self.history.limit or 2
        self._output = Output(None, (), self._layout, run.settings, limit, resume=False, lock=self._lock)
        self._output.go_on(run.scalars)
        self._recorder = Recorder(self._layout, self.history, self._output.write, self._lock)
        self._recorder.skipped = state["skipped"]
        self._recorder.restore()
        self._watchers, self._copied, self._moments, self._rotation = [], list(state["counts"]), None, None
        self._due_at, self._flushing, self._waits, self._given, self._closed = 0.0, None, False, {}, True

    def _leave_to_parent(self) -> None:
        """In a child of fork: let go of everything, and say so if the child trains with this after all."""
        self._copied, self._closed, self._lock = self._counts, True, RLock()  # another thread may have held the old one
        for watcher in self._watchers:
            watcher.leave()
        self.history.after_fork()
        self._layout.after_fork()
        self._recorder.after_fork(self._lock)
        self._output.after_fork(self._lock)

    def __repr__(self) -> str:
        if self._copied is not None:
            state = ", a copy: it watches nothing and writes nothing"
        else:
            state = ", closed" if self._closed else ""
        where = "in memory" if self.path is None else repr(str(self.path))
        records = len(self.history)
        return (
            f"<Monitor {where}, step {self.step}, {records} record{'s' * (records != 1)} of {len(self._layout.layers)} "
            f"layers, every={self.every}{state}>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Going on with a training

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: step counts, and the initial weights."""
        self.flush()
        return {
            "counts": self._counts,
            "initial": {} if self._rotation is None else self._rotation.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: records that are later than it are dropped, on disk too.

        Raises:
            ValueError: not the state of a monitor, or of another number of optimizers, or of another model; nothing has
                changed.
        """
        if self._copied is not None:
            raise RuntimeError(
                "this is a copy of a monitor, which watches no training: load the state into the original"
            )
        counts = _counts_of(state)
        if len(counts) != len(self._watchers):
            raise ValueError(f"the state is of {len(counts)} optimizers, the monitor has {len(self._watchers)}")
        if self._rotation is not None:
            self._rotation.load(state.get("initial", {}))
        for watcher, count in zip(self._watchers, counts, strict=True):
            watcher.count = count
        self._recorder.drop()
        of_layer: dict[str, int] = {}
        for place, count in enumerate(counts):
            of_layer |= {name: max(count, of_layer.get(name, 0)) for name in self._layout.of_optimizer(place)}

        def last(layers: Iterable[str]) -> int:
            return max((of_layer[name] for name in layers if name in of_layer), default=counts[0])

        self.history.truncate(last)
        self._output.truncate(last)
        self._recorder.restore()

    def _resume(self) -> None:
        """Go on with what the folder holds, which is taken to be the training up to now."""
        found = self._output.found()
        sharded = bool(self._layout.sharded)
        if found is not None:
            self.history.take_over(found.history, self._layout.optimizer_of, self._output.paces())
            self._output.go_on(found.scalars)
            self._recorder.restore()
        elif not sharded:
            return
        counts = [self._output.last_step(place) for place in range(len(self._watchers))]
        if sharded:  # all processes must measure the same steps
            counts = from_writer(counts)
        for watcher, count in zip(self._watchers, counts, strict=True):
            watcher.count = count
        if self._rotation is not None:
            self._rotation.load(self._output.initial())


def _counts_of(state: Any) -> list[int]:
    """The step counts of a monitor's state, one per optimizer."""
    try:
        counts = list(state["counts"])
        if isinstance(state["counts"], str) or not isinstance(state.get("initial", {}), Mapping):
            raise TypeError
    except (KeyError, TypeError):
        raise ValueError(
            f"this is no state of a monitor, which has counts and initial: {reprlib.repr(state)}"
        ) from None
    return [check_whole(f"counts[{place}]", count) for place, count in enumerate(counts)]
