"""How long a step takes, without making it longer: nothing here waits for the device while training."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

WARM_UP = 3  # first steps of a process: allocation, kernel selection


class StepClock:
    """Times of whole steps and of the optimizer's part of them, in ms.

    Call `start`, `before_optimizer`, `stop` in each step. On CUDA the three are events in the stream, and
    `collect` reads them at a moment when the host waits anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []
        self.pending: list[list[Any]] = []
        self.steps: list[float] = []
        self.optimizer: list[float] = []
        self.seen = 0

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def start(self) -> None:
        self.marks = []
        self.mark()

    def before_optimizer(self) -> None:
        self.mark()

    def stop(self, count: bool) -> None:
        """End a step; `count` False for one that did more than train (a recorded step)."""
        self.mark()
        self.seen += 1
        if count and self.seen > WARM_UP:
            self.pending.append(self.marks)

    def collect(self) -> None:
        """Turn finished marks into times; on CUDA only where the device has been waited for."""
        for first, middle, last in self.pending:
            if self.cuda:
                self.steps.append(first.elapsed_time(last))
                self.optimizer.append(middle.elapsed_time(last))
            else:
                self.steps.append(1e3 * (last - first))
                self.optimizer.append(1e3 * (last - middle))
        self.pending = []

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint keeps: the times so far."""
        return {"steps": list(self.steps), "optimizer": list(self.optimizer)}

    def load(self, state: dict[str, list[float]]) -> None:
        self.steps, self.optimizer = list(state["steps"]), list(state["optimizer"])

    def medians(self) -> dict[str, float | None]:
        return {
            "step_ms": statistics.median(self.steps) if self.steps else None,
            "optimizer_ms": statistics.median(self.optimizer) if self.optimizer else None,
        }
