"""Methods that step one set of weights in turn on the device: by calls, or by replays of CUDA graphs.

As `measure.Race` on the CPU: the order is shuffled anew each round, every method has its own state, and the unit takes
part in each. A method that cannot take part is named with the reason, and the others go on.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from .. import memory
from ..measure import GRADIENT_RMS, LARGEST_DRIFT, SEED, WEIGHT_RMS, Effort, figures
from ..methods import UNIT, Method
from ..shapes import ParameterSet, Shapes
from .device import Device, Step, state_bytes
from .methods import least_bytes

SHARE_OF_MEMORY = 0.92  # of what is free on the device, for weights and states
FEWEST_ROUNDS = 3  # with fewer there are no quartiles
LATE = "no time left"


def measure_set(
    device: Device, chosen: ParameterSet, methods: Sequence[Method], replayed: bool, effort: Effort, until: float
) -> dict[str, Any]:
    """Figures of the methods on one set.

    Args:
        replayed: steps are replays of a graph.
        until: `time.monotonic` at which to stop.

    Returns:
        "methods": name -> figures in microseconds, bytes an entry, GB/s of the least traffic, and bytes of memory
        beyond weights, gradients and state; "skipped" and "failed": name -> reason.
    """
    found: dict[str, Any] = {"methods": {}, "skipped": {}, "failed": {}}
    budget = int(SHARE_OF_MEMORY * device.free_bytes())
    groups, too_large = memory.groups(methods, chosen.entries, budget)
    found["skipped"] |= too_large
    own = {method.name: method for method in methods}  # the groups' unit is the CPU's
    for group in groups:
        if time.monotonic() > until:
            found["skipped"] |= {method.name: LATE for method in group if method.name not in found["methods"]}
            continue
        turns = Turns(device, chosen.shapes, [own[method.name] for method in group], replayed, until)
        times = turns.run(effort, until)
        found["skipped"] |= turns.skipped
        found["failed"] |= turns.failed
        for name, figure in figures(times).items() if times else ():
            if name in found["methods"]:
                continue
            nbytes = least_bytes(own[name].traffic, chosen.sizes, device.l2)
            us = {key: 1e3 * value for key, value in asdict(figure).items() if key in ("ms", "q1", "q3")}
            found["methods"][name] = {
                "us": us["ms"], "q1": us["q1"], "q3": us["q3"], "ratio": figure.ratio,
                "ratio_by_round": figure.ratio_by_round, "rounds": figure.rounds, "bytes_per_entry": nbytes,
                "gb_per_s": nbytes * chosen.entries / 1e3 / us["ms"], "beyond_bytes": turns.beyond.get(name),
            }  # fmt: skip
        if not times:
            found["skipped"] |= {name: LATE for name in turns.works if name not in found["methods"]}
        del turns
        gc.collect()  # the states of a group, before the next one's are made
    return found


def parameters(shapes: Shapes, device: torch.device) -> list[Parameter]:
    """Weights with gradients, the same ones each time on a device."""
    generator = torch.Generator(device=device).manual_seed(SEED)
    made = []
    for shape in shapes:
        p = Parameter(torch.empty(shape, device=device).normal_(0, WEIGHT_RMS, generator=generator))
        p.grad = torch.empty(shape, device=device).normal_(0, GRADIENT_RMS, generator=generator)
        made.append(p)
    return made


class Turns:
    """Methods on one set of weights, ready to be timed.

    Attributes:
        works: name -> one step.
        beyond: name -> bytes at the peak of a step beyond weights, gradients and state; None: not known.
        skipped, failed: name -> why it takes no part: not there, or it broke.
    """

    def __init__(self, device: Device, shapes: Shapes, methods: Sequence[Method], replayed: bool, until: float) -> None:
        self.device, self.replayed = device, replayed
        self.params = parameters(shapes, device.device)
        self.works: dict[str, Step] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.beyond: dict[str, int | None] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.gradients: list[Tensor] = []
        self.writers = {method.name for method in methods if method.writes_gradients}
        for method in methods:
            if method.name != UNIT and time.monotonic() > until:
                self.skipped[method.name] = LATE
                continue
            try:
                self._enter(method)
            except ImportError as error:
                self.skipped[method.name] = str(error)
            except Exception as error:
                self.failed[method.name] = f"{type(error).__name__}: {error}"[:400]
            if method.name in self.failed:
                gc.collect()
                device.free_bytes()  # what it held is free again
        if UNIT not in self.works:
            raise RuntimeError(f"{UNIT}, the unit, cannot run: {self.failed.get(UNIT) or self.skipped.get(UNIT)}")
        self.norm = self._norm()

    def _enter(self, method: Method) -> None:
        if method.name in self.writers and not self.gradients:
            self.gradients = [_gradient(p).clone() for p in self.params]
        before = self.device.allocated()
        optimizer = method.make(self.params)
        if self.replayed:
            self.device.warm_up(optimizer, self.device.warm)
            work = self.device.capture(optimizer)
            work()
        else:
            work = optimizer.step
            for _ in range(self.device.warm):
                work()
            peak = self.device.peak(work)
            if peak is not None and before is not None:
                self.beyond[method.name] = peak - before - state_bytes(optimizer, self.device.device)
        self._put_back(method.name)
        self.optimizers[method.name], self.works[method.name] = optimizer, work

    def run(self, effort: Effort, until: float) -> dict[str, list[float]]:
        """Seconds of each method, a number each round; {} if there was no time for a few rounds.

        Raises:
            RuntimeError: weights left the range that they have in training, so that the times would mean nothing.
        """
        order, times = list(self.works), {name: list[float]() for name in self.works}
        shuffled = random.Random(SEED)
        for done in range(effort.warmup + effort.rounds):
            if time.monotonic() > until:
                break
            shuffled.shuffle(order)
            for name in order:
                seconds = self._time(self.works[name])
                self._put_back(name)
                if done >= effort.warmup:
                    times[name].append(seconds)
        self._check_health()
        return times if len(times[UNIT]) >= FEWEST_ROUNDS else {}

    def _time(self, work: Callable[[], object]) -> float:
        gc.disable()  # a collection would hit whoever has the turn
        try:
            return self.device.seconds(work, queued=self.replayed)
        finally:
            gc.enable()

    def _put_back(self, name: str) -> None:
        if name in self.writers:
            for p, gradient in zip(self.params, self.gradients, strict=True):
                _gradient(p).copy_(gradient)

    def _check_health(self) -> None:
        """Raise RuntimeError if a weight is not finite, or the weights' norm has drifted."""
        drift = abs(self._norm() / self.norm - 1)
        if not drift <= LARGEST_DRIFT:  # nan is not
            raise RuntimeError(f"the norm of the weights drifted by {drift:.1%}: the times would mean nothing")

    def _norm(self) -> float:
        return float(torch.stack([p.detach().norm() for p in self.params]).double().norm())


def _gradient(p: Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
