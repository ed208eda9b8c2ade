"""Measuring the steps of one optimizer.

A watcher hooks into ``optimizer.step``. What it finds in a step is a tensor of numbers, which nobody waits for; they
are read later, those of many steps at once.
"""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from layerpace.engine.common.fake import has_values
from layerpace.monitors.layout import Layout
from layerpace.monitors.transfer import Transfer

Fields: TypeAlias = Mapping[str, Tensor]

_HOOKED_STEP = Optimizer.profile_hook_step(lambda: None).__code__


@dataclass(frozen=True)
class Numbers:
    """What a step left to be read.

    Attributes:
        layers: names, one a row.
        fields: names of the columns.
        values: float64 [rows, fields], on its way to the host.
        read: columns, float64 [..., rows] each -> quantities of the same shape. Numbers that have equal layers,
            fields and ``read`` are read together.
    """

    layers: tuple[str, ...]
    fields: tuple[str, ...]
    values: Transfer
    read: Callable[[Fields], dict[str, Tensor]]


Seen: TypeAlias = Callable[["Watcher", "list[Numbers] | None"], None]


class Watcher(ABC):
    """The steps of one optimizer.

    Attributes:
        optimizer: the optimizer itself, not what wraps it.
        count: calls of its ``step`` that have returned.
        quantities: what its records have.
        measured: the parameters of the last record.
    """

    quantities: tuple[str, ...]

    def __init__(self, optimizer: Optimizer, layout: Layout, due: Callable[[int], bool], seen: Seen) -> None:
        self.optimizer, self.layout = optimizer, layout
        self.count = 0
        self.measured: list[Tensor] = []
        self._due, self._seen = due, seen
        self._measuring = self._stepping = False
        self._inner = 0  # steps of base classes that the step calls, and that torch hooks, too
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._stop()

    def leave(self) -> None:
        """Watch no longer, in a child of fork, and warn if the optimizer steps there."""
        self.detach()

        def warn(*_: Any) -> None:
            handle.remove()
            warnings.warn(
                "layerpace.Monitor: this process is a child of the one that has the monitor, and records nothing: make "
                "a monitor of its own here",
                stacklevel=3,
            )

        handle = self.optimizer.register_step_pre_hook(warn)

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._stepping and _is_within_its_step(optimizer):  # else the step before has raised
            self._inner += 1
            return None
        self._stop()
        self._stepping, self._inner = True, 0
        self._measuring = self._due(self.count + 1) and self._has_values()
        return self._begin(args, kwargs) if self._measuring else None

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._inner:  # what the outer step does after it belongs to the step
            self._inner -= 1
            return
        if not self._stepping:  # hooked in the middle of a step
            return
        self._stepping = False
        self.count += 1
        numbers = None
        if self._measuring:
            with torch.no_grad():
                numbers = self._end()
            self._stop()
        self._seen(self, numbers)

    def _has_values(self) -> bool:
        """Whether there is something to measure: not under FakeTensorMode."""
        params = (param for group in self.optimizer.param_groups for param in group["params"])
        first = next(params, None)
        return first is None or has_values(first)

    @abstractmethod
    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prepare to measure the step; may return other arguments for it."""

    @abstractmethod
    def _end(self) -> list[Numbers]:
        """What the step left."""

    @abstractmethod
    def _stop(self) -> None:
        """The steps to come are not measured."""

    def _skipped(self, rows: int, device: torch.device) -> Tensor:
        """float64 [rows]: 1 where GradScaler held the whole step back, known to the device alone."""
        found_inf = getattr(self.optimizer, "found_inf", None)
        if found_inf is None:
            return torch.zeros(rows, dtype=torch.float64, device=device)
        skipped: Tensor = (found_inf.to(device) != 0).double().reshape(1).expand(rows)
        return skipped


def _is_within_its_step(optimizer: Optimizer) -> bool:
    """Whether the hook that asks is of a step that another hooked step of the optimizer has called."""
    steps, frame = 0, sys._getframe()
    while frame is not None:
        if frame.f_code is _HOOKED_STEP and frame.f_locals.get("self") is optimizer:
            steps += 1
        frame = frame.f_back  # type: ignore[assignment]
    return steps > 1
