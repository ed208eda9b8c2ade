"""Saying once which layers start at zero under a rule that keeps norms: they stay as small as it lets them start."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.plan import Part, Plan, RuleRows
from layerpace.engine.support import captures_graph
from layerpace.rules import Rule

MEMORY = "initial_norm"
LISTED = 5  # names in a warning


class ZeroLayers:
    """Looks at the first steps of layers, and warns of those that were zero before and have a gradient.

    The norms and sums of the step are there already. Those of a GPU are read when they have arrived: no step waits.

    Attributes:
        waiting: some layer has still to take its first step, or to be read.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._looked = False
        self._coming: list[tuple[Rule, float, list[str], Tensor, Any]] = []  # and the event of their arrival
        self._told: set[str] = set()

    def begin(self) -> None:
        """Some layer has its first step before it."""
        self.waiting, self._looked = True, False

    def look(self, plan: Plan) -> None:
        """After a step, while layers are ``waiting``."""
        min_rms = plan.settings.min_rms
        keepers = [(part, own) for part in plan.parts for own in part.rules if _keeps_norm(own.rule)]
        if not keepers or not min_rms:
            self.waiting = False
            return
        if captures_graph() or not all(one[-1].query() for one in self._coming):
            return
        if self._coming:
            held_back = [self._tell(*one[:-1]) for one in self._coming]
            self._coming.clear()
            if self._looked and not any(held_back):
                self.waiting = False
                return
        waiting, self._looked = False, True
        for part, own in keepers:
            rule, flags = own.rule, _flags(part, own, min_rms)
            names = [name for cut in own.cuts for name in cut.layer_names]
            if type(flags) is not Tensor or flags.is_meta:  # a step without numbers
                continue
            if flags.is_cuda:
                host = torch.empty(flags.shape, dtype=flags.dtype, device="cpu", pin_memory=True)
                host.copy_(flags, non_blocking=True)
                event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(torch.cuda.current_stream(flags.device))
                self._coming.append((rule, min_rms, names, host, event))
                waiting = True
            else:
                waiting |= self._tell(rule, min_rms, names, flags)
        self.waiting = waiting

    def _tell(self, rule: Rule, min_rms: float, names: Sequence[str], flags: Tensor) -> bool:
        """Warn of layers that have not been told of; whether some have still to take their first step."""
        zero, before = flags.tolist()
        found = [name for name, flag in zip(names, zero, strict=True) if flag and name not in self._told]
        self._told.update(found)
        if found and _speaks():
            listed = ", ".join(map(repr, found[:LISTED])) + f" and {len(found) - LISTED} more" * (len(found) > LISTED)
            warnings.warn(
                f"{type(rule).__name__} keeps the norm of every layer, and {listed} started at zero, or near it: an "
                f"RMS of min_rms = {min_rms:g} is as far as such a layer gets. Leave out what must grow (LoRA's B, the "
                "last layer of a residual branch) by exclude, or give it another rule; see docs/zero-initialised.md",
                stacklevel=2,
            )
        return any(before)


def _keeps_norm(rule: Rule) -> bool:
    return rule.keeps_norm and MEMORY in rule.state_names


def _flags(part: Part, own: RuleRows, min_rms: float) -> Tensor:
    """bool [2, rows]: layers that were zero and have a gradient, and those before their first step."""
    norm = torch.cat([state[MEMORY].reshape(-1) for state in own.states])
    n, uu = own.take(part.n), own.take(part.table["uu"])
    small = (norm > 0) & (norm <= min_rms * n.sqrt() * (1 + 1e-9))
    zero = small & (uu > 0)
    if part.excluded_L is not None:
        zero &= ~own.take(part.excluded_L)
    return torch.stack([zero, (norm == 0) & (n > 0)])


def _speaks() -> bool:
    """Every process knows all layers; the first one says so."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
