"""`Monitor`: how fast every layer trains, live, with any optimizer."""

from __future__ import annotations

import atexit
import contextlib
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from layerpace.checks import check_choice, check_whole
from layerpace.monitors.arguments import number, rotation_spacing, unwrapped
from layerpace.monitors.feedback import Feedback
from layerpace.monitors.foreign import ForeignWatcher
from layerpace.monitors.history import History
from layerpace.monitors.layout import Layout
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

LATER = 1000  # from this step on the rotation curve is read less often
NUMBERS = 1 << 25  # of a kind that are kept at most, about 4 bytes each in memory and 10 on disk
FLUSH_SECONDS = 5.0  # records wait so long at most before they are written


# Monitors that nobody has closed: what they have recorded is written when they go, or the process ends.
_OPEN: weakref.WeakSet[Monitor] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    for monitor in list(_OPEN):
        monitor._flush_quietly()


class Monitor:
    """Records how fast each layer trains, at every ``every``-th step of an optimizer.

    What is recorded is listed in `layerpace.monitors.quantities`: relative updates, the angle of a step, the rotation
    curve, trust ratios, norms. With an optimizer of layerpace the step adds the sums up as it goes. With any other,
    the weights are copied before a recorded step (after its closure) and compared after it, which takes about as long
    as the step, and one copy of the weights. Nothing waits for the device.

    Steps are calls of ``optimizer.step`` that return, 1, 2, ...; the first one is always recorded. Steps that
    GradScaler skips, and accumulation, which makes none, leave no record.

    Where parameters are sharded (FSDP2, tensor parallelism) the figures are those of whole layers, and rank 0 writes
    them. Every process must make the monitor then, and resume it or load its state: a record takes one all-reduce for
    each process group, and the rotation curve one more where it is read.

    Args:
        model: the network; names of layers are those of its parameters. A tensor that it has twice is one layer.
        optimizer: a torch optimizer, or several of one model. Wrappers that hold one under ``.optimizer`` (accelerate,
            Lightning) are looked through.
        every: steps between records, >= 1.
        out: the run's folder, for ``layerpace report`` and ``layerpace watch``; "auto": runs/DATE-TIME, made at the
            first record; None: nothing is written. In a distributed run rank 0 writes.
        sinks: further places for the figures: objects with ``log(values, step)``, or the names of those in
            `layerpace.monitors.sinks`.
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
        FileExistsError: ``out`` holds records, and ``resume`` is off.

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
        described = settings_of(model, optimizers, every) | dict(settings or {})
        self._output = Output(out, sinks, self._layout, described, max_records, resume)
        self._recorder = Recorder(self._layout, self.history, self._output.write)
        self._flushed = time.monotonic()
        self._watchers = [self._watcher(optimizer) for optimizer in optimizers]
        if resume:
            self._resume()
        for other in list(_OPEN):
            if self.path is not None and other.path is not None and other.path.resolve() == self.path.resolve():
                other.abandon()  # a folder has one writer: the last that was told to go on in it
        self._closed = False
        _OPEN.add(self)

    def _watcher(self, optimizer: Optimizer) -> Watcher:
        kind = OursWatcher if isinstance(optimizer, Layerwise) else ForeignWatcher
        return kind(optimizer, self._layout, self._due, self._seen)  # type: ignore[arg-type]

    # A step

    def _due(self, step: int) -> bool:
        if self._layout.grown() and self._rotation is not None:
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
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush(wait=False)

    # What was recorded

    @property
    def step(self) -> int:
        """Steps of the first optimizer that were seen."""
        return self._watchers[0].count

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
        return self._recorder.latest()

    @property
    def run(self) -> Run:
        """All of it, for `layerpace.monitors.plots`, the report and ``diagnose``."""
        self._recorder.read()
        return self._output.run(self.history)

    def diagnose(self) -> list[Finding]:
        """What seems wrong with the training, worst first; see `layerpace.monitors.diagnose`."""
        from layerpace.monitors.diagnose import diagnose

        return diagnose(self.run)

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

    def flush(self) -> None:
        """Write all records; waits for the device."""
        self._flush(wait=True)

    def _flush(self, wait: bool) -> None:
        self._recorder.read(wait)
        self._output.flush(None if self._rotation is None else self._rotation.state, wait)
        self._flushed = time.monotonic()

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
            "counts": [watcher.count for watcher in self._watchers],
            "initial": {} if self._rotation is None else self._rotation.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: records that are later than it are dropped, on disk too.

        Raises:
            ValueError: of another number of optimizers, or of another model.
        """
        counts = list(state["counts"])
        if len(counts) != len(self._watchers):
            raise ValueError(f"the state is of {len(counts)} optimizers, the monitor has {len(self._watchers)}")
        if self._rotation is not None:
            self._rotation.load(state["initial"])
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

    def _resume(self) -> None:
        """Go on with what the folder holds, which is taken to be the training up to now."""
        found = self._output.found()
        sharded = bool(self._layout.sharded)
        if found is not None:
            self.history.take_over(found.history, self._layout.optimizer_of, self._output.paces())
            self._output.go_on(found.scalars)
        elif not sharded:
            return
        counts = [self._output.last_step(place) for place in range(len(self._watchers))]
        if sharded:  # all processes must measure the same steps
            counts = from_writer(counts)
        for watcher, count in zip(self._watchers, counts, strict=True):
            watcher.count = count
        if self._rotation is not None:
            self._rotation.load(self._output.initial())
