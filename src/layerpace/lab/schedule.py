"""The learning rate's way through a run, by name.

    constant                      as it is
    linear                        a straight line to 1% at the last step
    linear:SLOPE[:FLOOR]          lr * max(FLOOR, 1 - SLOPE*t), FLOOR 0.01: PercentDelta's equation 10
    cosine                        half a cosine to 0 at the last step
    steps:FACTOR@SHARE/SHARE/...  times FACTOR at each of these shares of the steps: steps:0.2@0.8/0.9/0.97

A step t counts from 0 after the warm-up, and a share is of the steps after it. No name has a comma, so that all of them
can be options of a method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from layerpace import schedules

NAMES = ("constant", "linear", "cosine")
FORMS = (*NAMES, "linear:SLOPE[:FLOOR]", "steps:FACTOR@SHARE/SHARE/...")


@dataclass(frozen=True)
class Schedule:
    """A schedule, read.

    Attributes:
        kind: "constant", "linear", "cosine", "slope" or "steps".
        slope, floor: of "slope": shares of the rate, a step.
        factor, shares: of "steps".
    """

    kind: str
    slope: float = 0.0
    floor: float = 0.01
    factor: float = 1.0
    shares: tuple[float, ...] = ()

    @classmethod
    def of(cls, text: object) -> Schedule:
        """Read one.

        Raises:
            ValueError: no schedule; the message says what is allowed, and leaves the text itself to the caller.
        """
        if not isinstance(text, str):
            raise ValueError(f"choose from {', '.join(FORMS)}")
        if text in NAMES:
            return cls(text)
        kind, _, rest = text.partition(":")
        if kind == "linear":
            values = [number(part, "linear:SLOPE or linear:SLOPE:FLOOR") for part in rest.split(":")]
            if len(values) > 2 or not all(0 <= value <= 1 for value in values):
                raise ValueError("must be linear:SLOPE or linear:SLOPE:FLOOR, both in [0, 1]")
            return cls("slope", slope=values[0], floor=values[1] if len(values) > 1 else 0.01)
        if kind == "steps":
            form = "steps:FACTOR@SHARE/SHARE/..., such as steps:0.2@0.8/0.9/0.97"
            before, _, after = rest.partition("@")
            factor = number(before, form)
            shares = tuple(number(part, form) for part in after.split("/"))
            if not 0 < factor <= 1:
                raise ValueError(f"the factor must be in (0, 1], got {factor:g}")
            if not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
                raise ValueError(f"shares of the steps must be in (0, 1) and rise, got {after}")
            return cls("steps", factor=factor, shares=shares)
        raise ValueError(f"choose from {', '.join(FORMS)}")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
        """torch's scheduler for so many steps; None: the rate stays.

        Drops in a run so short that two shares are the same step come together.
        """
        if self.kind == "linear":
            return schedules.linear_decay(optimizer, slope=1 / steps)
        if self.kind == "slope":
            return schedules.linear_decay(optimizer, self.slope, self.floor)
        if self.kind == "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        if self.kind == "steps":
            return MultiStepLR(optimizer, [max(1, round(share * steps)) for share in self.shares], gamma=self.factor)
        return None


def scheduler(text: str, optimizer: torch.optim.Optimizer, steps: int, warmup: int = 0) -> LRScheduler | None:
    """The scheduler of a run of so many steps, ``warmup`` included; None: the rate stays as it is.

    The warm-up of W steps goes from lr/W at the first step to lr at step W; the schedule then takes the rest.

    Raises:
        ValueError: see `Schedule.of`.
    """
    made = Schedule.of(text).scheduler(optimizer, steps - warmup)
    return schedules.warmup(optimizer, warmup, made, start=1 / warmup) if warmup else made


def number(part: str, form: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"must be {form}; {part!r} is not a number") from None
