"""Interleaved timing of optimizer steps on shared weights, and what its figures are.

Methods take turns, in an order that is shuffled anew each round, so that a slow moment of the machine meets all of
them and none always finds what its neighbour left in the cache. A time is that of `optimizer.step()` as a training
loop calls it: collecting the gradients and all Python included.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from .methods import UNIT, Method
from .shapes import Shapes

SEED = 0
WEIGHT_RMS, GRADIENT_RMS = 0.05, 1e-3  # of real networks, roughly
LARGEST_DRIFT = 0.05  # of the weights over a whole measurement, as a share of their norm
BLOCK = 1 << 22  # entries that the check of health looks at in one go


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least ``rounds`` rounds and ``seconds`` seconds, at most 40 times ``rounds``."""

    rounds: int
    warmup: int = 3
    seconds: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Milliseconds of a step, and its ratio to the unit in two ways; a ratio below 1 is faster than the unit.

    ``ratio`` is that of the medians, ``ratio_by_round`` the median of the ratios within each round, which a slow
    stretch of rounds does not move.
    """

    ms: float
    q1: float
    q3: float
    ratio: float
    ratio_by_round: float
    rounds: int


def figures(times: Mapping[str, Sequence[float]]) -> dict[str, Figures]:
    """Figures of each method from its seconds, a number each round; ``times`` holds the unit too."""
    unit = times[UNIT]
    found = {}
    for name, seconds in times.items():
        q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
        by_round = statistics.median(own / other for own, other in zip(seconds, unit, strict=True))
        ratio = median / statistics.quantiles(unit, n=4, method="inclusive")[1]
        found[name] = Figures(1e3 * median, 1e3 * q1, 1e3 * q3, ratio, by_round, len(seconds))
    return found


def parameters(shapes: Shapes) -> list[Parameter]:
    """Weights with gradients, the same ones each time."""
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for shape in shapes:
        p = Parameter(torch.empty(shape).normal_(0, WEIGHT_RMS, generator=generator))
        p.grad = torch.empty(shape).normal_(0, GRADIENT_RMS, generator=generator)
        made.append(p)
    return made


class Race:
    """Methods that step one set of weights in turn; each has its own state, and the unit takes part."""

    def __init__(self, shapes: Shapes, methods: Sequence[Method]) -> None:
        if UNIT not in [method.name for method in methods]:
            raise ValueError(f"{UNIT!r} must take part in every race: it is the unit")
        self.params = parameters(shapes)
        self.skipped: dict[str, str] = {}
        self.optimizers: dict[str, Optimizer] = {}
        for method in methods:
            try:
                self.optimizers[method.name] = method.make(self.params)
            except ImportError as error:
                self.skipped[method.name] = str(error)
        self.writers = {method.name for method in methods if method.writes_gradients} & self.optimizers.keys()
        self.gradients = [_gradient(p).clone() for p in self.params] if self.writers else []
        self.norm = self._norm()

    def run(self, effort: Effort, after_round: Callable[[int, int], None] | None = None) -> dict[str, Figures]:
        """Time the methods.

        Args:
            effort: how long.
            after_round: called between the rounds with those done, and those that are certain to be done.

        Raises:
            RuntimeError: weights, gradients or state left the range that they have in training, so that the times
                would mean nothing.
        """
        order, times = list(self.optimizers), {name: list[float]() for name in self.optimizers}
        shuffled, start, done = random.Random(SEED), time.perf_counter(), 0
        while done < effort.warmup + effort.rounds or (
            time.perf_counter() - start < effort.seconds and done < 40 * effort.rounds
        ):
            shuffled.shuffle(order)
            for name in order:
                seconds = self._time(name)
                if done >= effort.warmup:
                    times[name].append(seconds)
            done += 1
            if after_round is not None:
                after_round(done, effort.warmup + effort.rounds)
        self.check_health()
        return figures(times)

    def _time(self, name: str) -> float:
        step = self.optimizers[name].step
        gc.disable()  # a collection would hit whoever has the turn
        try:
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
        finally:
            gc.enable()
        if name in self.writers:
            for p, gradient in zip(self.params, self.gradients, strict=True):
                _gradient(p).copy_(gradient)
        return seconds

    def check_health(self) -> None:
        """Raise RuntimeError for inf, nan and denormals, on which arithmetic is slow, and for weights that drifted."""
        for name, tensor in self._tensors():
            for block in torch.split(tensor.detach().reshape(-1), BLOCK):
                sizes = block.abs()
                tiny = (sizes > 0) & (sizes < torch.finfo(torch.float32).tiny)
                if not bool(torch.isfinite(sizes).all()) or bool(tiny.any()):
                    raise RuntimeError(f"{name} got inf, nan or denormal numbers: its times mean nothing")
        drift = abs(self._norm() / self.norm - 1)
        if drift > LARGEST_DRIFT:
            raise RuntimeError(f"the norm of the weights drifted by {drift:.1%}: lower the learning rates")
        for p, fresh in zip(self.params, parameters([tuple(p.shape) for p in self.params[:1]]), strict=False):
            if not torch.equal(_gradient(p), _gradient(fresh)):
                raise RuntimeError("a method wrote p.grad: mark it with writes_gradients")

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for p in self.params:
            yield "a weight", p
            yield "a gradient", _gradient(p)
        for name, optimizer in self.optimizers.items():
            for state in optimizer.state.values():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.is_floating_point():
                        yield f"{key} of {name}", value

    def _norm(self) -> float:
        return float(torch.stack([p.detach().norm() for p in self.params]).double().norm())


def _gradient(p: Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
