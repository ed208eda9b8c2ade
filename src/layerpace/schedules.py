"""Learning-rate schedules of the papers that `torch.optim.lr_scheduler` lacks.

Each function returns a `torch.optim.lr_scheduler.LRScheduler` for any `torch.optim.Optimizer`: call its
`step()` after the optimizer's. All but `step_drops` are closed forms of the number t of steps taken
(`last_epoch`), so a schedule never drifts from its equation and may touch zero, where torch's chainable
schedules, which multiply the last learning rate, stay for ever. The unit of t is whatever `step()` is called
for: a batch or an epoch. What torch has (`CyclicLR`, `OneCycleLR`, `CosineAnnealingLR`) is used from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from layerpace.engine.common.checks import check_number, plain

__all__ = ["linear_decay", "polynomial_decay", "step_drops", "warmup"]


def linear_decay(optimizer: Optimizer, slope: float, floor: float = 0.01) -> LRScheduler:
    """PercentDelta's decay: a straight line down to a floor, where training may go on for ever::

        lr_t = lr * max(floor, 1 - t*slope)

    Args:
        optimizer: any `torch.optim.Optimizer`; every group decays from its own learning rate.
        slope: share of the initial learning rate lost a step, in [0, 1]; it would be 0 at step 1 / slope.
        floor: smallest share of the initial learning rate, in [0, 1]. The paper's equation 10 has 0.01;
            0 is its equation 9, 1 - t * slope, held at zero rather than turned negative: momentum still moves
            the weights there.

    Raises:
        ValueError: slope or floor out of range.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.PercentDelta(model.parameters(), lr=0.03)
        >>> schedule = lp.schedules.linear_decay(optimizer, slope=0.25, floor=0.1)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(schedule.get_last_lr()[0], 4))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.03, 0.0225, 0.015, 0.0075, 0.003]

    Reference: Abu-El-Haija, "Proportionate gradient updates with PercentDelta", 2017, equations 9 and 10.
    """
    slope, floor = check_number("slope", slope, 0, 1), check_number("floor", floor, 0, 1)
    return _LinearDecay(optimizer, slope, floor)


def warmup(optimizer: Optimizer, steps: int, after: LRScheduler | None = None, start: float = 0.0) -> LRScheduler:
    """Gradual warm-up: a straight line from a small learning rate to the schedule that follows::

        lr_t = lr * (start + (1 - start) * t / steps)        t <= steps; lr the rate of `after` at its step 0

    At t = steps the learning rate is lr exactly, and from then on `after` counts its steps from 0: its first change
    is at t = steps + 1.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        steps: number of steps before lr is reached; 0 starts with `after` at once.
        after: any scheduler of the same optimizer, new (made before the warm-up, and left to it to step), or
            None for a constant lr. After the warm-up, `step(metric)` passes the metric on to a
            `ReduceLROnPlateau`.
        start: share of lr to begin from, in [0, 1]. With 0 the first step moves no weight; 1 / steps begins
            with a movement.

    Raises:
        TypeError: `after` is no scheduler.
        ValueError: a value out of range, or an `after` of another optimizer or that has been stepped.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.LARS(model.parameters(), lr=8.0)
        >>> drops = lp.schedules.step_drops(optimizer, at=[2], factor=0.1)
        >>> schedule = lp.schedules.warmup(optimizer, steps=4, after=drops)
        >>> rates = []
        >>> for _ in range(8):
        ...     rates.append(round(schedule.get_last_lr()[0], 1))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 0.8, 0.8]

    Reference: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017,
    section 2.2.
    """
    start = check_number("start", start, 0, 1)
    return _Warmup(optimizer, _count("steps", steps), after, start)


def polynomial_decay(
    optimizer: Optimizer, total_steps: int, power: float = 2.0, floor: float = 0.0, warmup_steps: int = 0
) -> LRScheduler:
    """LARS's decay: a polynomial that ends at `total_steps`, after an optional warm-up::

        lr_t = lr * (floor + (1 - floor) * (1 - s)^power)
        s    = min(1, (t - warmup_steps) / (total_steps - warmup_steps))

    Train for `total_steps` and no longer, or give it a floor: at a rate of 0 an optimizer with lr in its velocity
    (LARS, PercentDelta) moves on by it.

    Args:
        optimizer: any `torch.optim.Optimizer`; every group decays from its own learning rate.
        total_steps: the step at which the learning rate reaches its floor, warm-up included.
        power: exponent, above 0; LARS has 2, LAMB (and 1 - t / total_steps) has 1.
        floor: share of the initial learning rate that is left at the end, in [0, 1].
        warmup_steps: steps of gradual warm-up from 0 (see `warmup`), fewer than `total_steps`.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.LARS(model.parameters(), lr=8.0)
        >>> schedule = lp.schedules.polynomial_decay(optimizer, total_steps=6, warmup_steps=2)
        >>> rates = []
        >>> for _ in range(7):
        ...     rates.append(round(schedule.get_last_lr()[0], 1))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.0, 4.0, 8.0, 4.5, 2.0, 0.5, 0.0]

    Reference: You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017.
    """
    total_steps = _count("total_steps", total_steps, least=1)
    warmup_steps = _count("warmup_steps", warmup_steps)
    if warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps must be below total_steps = {total_steps}, or no step is left to decay over; "
            f"got {warmup_steps}"
        )
    power = check_number("power", power, 0, open_low=True, open_high=True)
    floor = check_number("floor", floor, 0, 1)
    decay = _PolynomialDecay(optimizer, total_steps - warmup_steps, power, floor)
    return _Warmup(optimizer, warmup_steps, decay, 0.0) if warmup_steps else decay


def step_drops(optimizer: Optimizer, at: Iterable[int], factor: float = 0.2) -> LRScheduler:
    """Sudden drops: the learning rate is multiplied by `factor` at each of the steps (or epochs) in `at`::

        lr_t = lr * factor^(number of a in `at` with a <= t)

    Args:
        optimizer: any `torch.optim.Optimizer`.
        at: steps to drop at, each at least 1; the unit is that of `step()`. They may be in any order.
        factor: multiplier of each drop, in (0, 1].

    Raises:
        TypeError: `at` is not a list of steps.
        ValueError: a value out of range, or the same step twice.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.Layca(model.parameters(), lr=1.0)
        >>> schedule = lp.schedules.step_drops(optimizer, at=(2, 4))
        >>> rates = []
        >>> for epoch in range(5):
        ...     rates.append(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 1.0, 0.2, 0.2, 0.04]

    Reference: "An experimental study of layer-level training speed and its impact on generalization", 2019
    (the Layca paper), which drops by a factor of 5 late in training. The class is torch's `MultiStepLR`.
    """
    if isinstance(at, (int, str)) or not isinstance(at, Iterable):
        raise TypeError(f"at must be a list of steps such as (80, 90, 97), got {at!r}")
    steps = [_count("at", step, least=1) for step in at]
    if len(set(steps)) < len(steps):
        raise ValueError(f"at must name each step once, got {steps}")
    factor = check_number("factor", factor, 0, 1, open_low=True)
    return MultiStepLR(optimizer, steps, gamma=factor)


class _ClosedForm(LRScheduler):
    """A multiplier of every group's initial learning rate that depends on `last_epoch` alone."""

    def multiplier(self) -> float:
        raise NotImplementedError

    def targets(self) -> list[float | Tensor]:
        """The learning rate of each group at multiplier 1; a group added on the way starts from its own."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            lr = group.setdefault("initial_lr", group["lr"])
            self.base_lrs.append(lr.clone() if isinstance(lr, Tensor) else lr)
        return self.base_lrs

    def get_lr(self) -> list[float | Tensor]:
        multiplier = self.multiplier()
        return [target * multiplier for target in self.targets()]

    def _get_closed_form_lr(self) -> list[float | Tensor]:  # torch asks for it in step(epoch)
        return self.get_lr()


class _LinearDecay(_ClosedForm):
    def __init__(self, optimizer: Optimizer, slope: float, floor: float) -> None:
        self.slope, self.floor = slope, floor
        super().__init__(optimizer)

    def multiplier(self) -> float:
        return max(self.floor, 1.0 - self.last_epoch * self.slope)


class _PolynomialDecay(_ClosedForm):
    def __init__(self, optimizer: Optimizer, total_steps: int, power: float, floor: float) -> None:
        self.total_steps, self.power, self.floor = total_steps, power, floor
        super().__init__(optimizer)

    def multiplier(self) -> float:
        rest = 1.0 - min(self.last_epoch, self.total_steps) / self.total_steps
        return float(self.floor + (1.0 - self.floor) * rest**self.power)


class _Warmup(_ClosedForm):
    """Not torch's `SequentialLR` with `LinearLR`: those cannot start from 0, ramp to the base rate even where
    the next schedule starts elsewhere (`CyclicLR`: a jump), and cannot have a `SequentialLR` second."""

    def __init__(self, optimizer: Optimizer, steps: int, after: LRScheduler | None, start: float) -> None:
        if after is not None:
            if not isinstance(after, LRScheduler):
                raise TypeError(f"after is a {type(after).__name__}: pass a torch.optim.lr_scheduler.LRScheduler")
            # A wrapped optimizer and its wrapper share their groups, and either may carry the schedule.
            if after.optimizer.param_groups is not getattr(optimizer, "param_groups", None):
                raise ValueError("after schedules another optimizer: make it for the one that warms up")
            if getattr(after, "last_epoch", 0) != 0:
                raise ValueError(f"after has taken {after.last_epoch} steps already: pass a new scheduler")
        self.steps, self.start, self.after = steps, start, after
        self.target_lrs = (
            None if after is None else [lr.clone() if isinstance(lr, Tensor) else lr for lr in after.get_last_lr()]
        )
        super().__init__(optimizer)

    def multiplier(self) -> float:
        if self.last_epoch >= self.steps:
            return 1.0
        return self.start + (1.0 - self.start) * self.last_epoch / self.steps

    def targets(self) -> list[float | Tensor]:
        base_lrs = super().targets()
        if self.target_lrs is None:
            return base_lrs
        self.target_lrs.extend(base_lrs[len(self.target_lrs) :])
        return self.target_lrs

    def step(self, metrics: Any = None) -> None:
        """One step; `metrics` goes to a `ReduceLROnPlateau` once the warm-up is over."""
        if self.after is None or self.last_epoch < self.steps:
            super().step()
            return
        if not isinstance(self.after, ReduceLROnPlateau):
            self.after.step()
        elif metrics is None:
            raise ValueError("the warm-up is over, and ReduceLROnPlateau needs its metric: call step(metric)")
        else:
            self.after.step(metrics)
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.after.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        after = state.pop("after")
        return state | {"after": None if after is None else after.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "after" not in state_dict:
            raise ValueError(f"not the state of a warm-up: 'after' is missing, the keys are {sorted(state_dict)}")
        after = state_dict["after"]
        if (after is None) != (self.after is None):
            saved, here = ("without", "with") if after is None else ("with", "without")
            raise ValueError(f"the saved warm-up was {saved} a schedule after it, this one is {here}")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "after"})
        if self.after is not None:
            self.after.load_state_dict(dict(after))  # a copy: CyclicLR takes an entry out of what it loads


def _count(name: str, value: Any, least: int = 0) -> int:
    number = plain(value)
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number
