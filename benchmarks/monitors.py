"""Part "monitors": what it costs to watch every layer, as a share of the optimizer's step.

The same optimizer steps in turn with and without its monitor, in an order drawn anew each round. A record with one of
our optimizers is made at every step, with a torch optimizer at every tenth. What comes at some records only is timed
apart and spread over the records that it serves: reading and writing 64 records at once, and the rotation curve, at
every 200th step. The initial weights, which are written once, do not count.
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

import layerpace as lp
from layerpace.monitors.recorder import PENDING

from .measure import SEED, Effort, parameters
from .methods import BY_NAME
from .progress import Bars
from .shapes import ParameterSet

OURS = ("LAMB", "LAMBC", "LARS", "PercentDelta", "Layca", "Adam", "SGD momentum")
FOREIGN: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-7, fused=True),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=1e-7),
    "torch SGD momentum fused": lambda p: torch.optim.SGD(p, lr=1e-7, momentum=0.9, fused=True),
}
FOREIGN_EVERY, ROTATION_EVERY = 10, 200
READINGS = 3  # of the rotation curve, and of records


@dataclass(frozen=True)
class Cost:
    """Milliseconds; ``ratio`` is the time of a step with a monitor to that without, all included.

    Attributes:
        alone: of a step without a monitor.
        recorded: of a step that is recorded.
        by_round: the median over rounds of recorded / alone.
        reading, rotation: of reading and writing a record, and of one reading of the rotation curve.
        every: steps from record to record.
    """

    alone: float
    recorded: float
    by_round: float
    reading: float
    rotation: float
    every: int

    @property
    def ratio(self) -> float:
        spread = self.reading / self.every + self.rotation / max(self.every, ROTATION_EVERY)
        return 1 + (self.by_round - 1) / self.every + spread / self.alone


def measure(make: Callable[[Any], torch.optim.Optimizer], shapes: Any, every: int, effort: Effort) -> Cost:
    """The cost of watching one optimizer."""
    model = nn.Module()
    model.tensors = nn.ParameterList(parameters(shapes))
    optimizer = make(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        monitor = lp.Monitor(
            model, optimizer, every=1, out=Path(folder) / "run", rotation_every=1 << 30, max_records=10**6
        )
        on = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        off: tuple[Any, Any] = OrderedDict(), OrderedDict()
        times: dict[bool, list[float]] = {True: [], False: []}
        order, shuffled = [True, False], random.Random(SEED)
        optimizer.step()
        monitor.flush()  # writes the initial weights
        start, done, records, reading = time.perf_counter(), 0, 0, 0.0
        while done < effort.warmup + effort.rounds or (
            time.perf_counter() - start < effort.seconds and done < 40 * effort.rounds
        ):
            shuffled.shuffle(order)
            for watched in order:
                optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = on if watched else off
                monitor._watchers[0]._stop()
                seconds = _timed(optimizer.step)
                if done >= effort.warmup:
                    times[watched].append(seconds)
            done, records = done + 1, records + 1
            if records == PENDING - 1:  # before the step that would read them
                reading += _timed(monitor.flush)
                records = 0
        reading += _timed(monitor.flush)
        rotation = 0.0
        if monitor._rotation is not None:
            watched_params = monitor._watchers[0].measured
            rotation = statistics.median(
                _timed(lambda: monitor._rotation.read(watched_params)) for _ in range(READINGS)
            )  # type: ignore[union-attr]
        monitor._watchers[0].detach()
    alone, recorded = statistics.median(times[False]), statistics.median(times[True])
    by_round = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
    return Cost(1e3 * alone, 1e3 * recorded, by_round, 1e3 * reading / done, 1e3 * rotation, every)


def _timed(call: Callable[[], object]) -> float:
    gc.disable()
    try:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    finally:
        gc.enable()


def measure_set(key: str, chosen: ParameterSet, effort: Effort, bars: Bars) -> dict[str, Any]:
    """Costs on one parameter set, by method."""
    cases = {name: (BY_NAME[name].make, 1) for name in OURS} | {n: (f, FOREIGN_EVERY) for n, f in FOREIGN.items()}
    bar = bars.add(f"{key} {chosen.title}, watched", len(cases))
    costs: dict[str, Any] = {}
    for name, (make, every) in cases.items():
        cost = measure(make, chosen.shapes, every, effort)
        costs[name] = vars(cost) | {"ratio": cost.ratio}
        gc.collect()
        bars.advance(bar)
    return {"title": chosen.title, "methods": costs}


def table(key: str, result: dict[str, Any]) -> Table:
    """One row a method."""
    printed = Table(title=f"{key} {result['title']}: watched", title_justify="left", title_style="bold", box=None)
    printed.add_column("")
    for heading in ("every", "step ms", "recorded ms", "a record read ms", "rotation ms", "ratio"):
        printed.add_column(heading, justify="right")
    for name, cost in result["methods"].items():
        numbers = [cost["alone"], cost["recorded"], cost["reading"], cost["rotation"]]
        printed.add_row(name, str(cost["every"]), *(f"{x:.3g}" for x in numbers), f"{cost['ratio']:.3f}")
    return printed
