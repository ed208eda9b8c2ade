"""Which methods share a run: as many as fit into memory, each group with the unit among them.

A method keeps up to two tensors of the size of the weights: 1 GB for GPT-2 small. Twenty of them do not fit beside each
other, so that they run in groups, one after the other, and every group times its own unit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .methods import BY_NAME, UNIT, Method

SHARED = 4 + 4 + 4  # bytes an entry: weights, gradients, and a copy of the gradients


def available() -> int:
    """Bytes of memory that are free for use (Linux); elsewhere half of what there is."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def needed(methods: Sequence[Method], entries: int) -> int:
    """Bytes that methods take which share one set of weights: all of their states, and the largest scratch."""
    scratch = max((method.scratch for method in methods), default=0)
    return entries * (SHARED + sum(method.state for method in methods) + scratch)


def groups(methods: Sequence[Method], entries: int, budget: int) -> tuple[list[list[Method]], dict[str, str]]:
    """Methods in groups that fit into ``budget`` bytes, the unit first in each; and the reasons of those that never do.

    Raises:
        MemoryError: not even the unit fits.
    """
    unit = BY_NAME[UNIT]
    if needed([unit], entries) > budget:
        raise MemoryError(f"{UNIT} on {entries} entries takes {needed([unit], entries)} bytes; there are {budget}")
    found: list[list[Method]] = [[unit]]
    skipped: dict[str, str] = {}
    for method in methods:
        if method.name == UNIT:
            continue
        if needed([unit, method], entries) > budget:
            skipped[method.name] = f"takes {needed([unit, method], entries) / 2**30:.1f} GiB with the unit"
        elif needed([*found[-1], method], entries) > budget:
            found.append([unit, method])
        else:
            found[-1].append(method)
    return found, skipped
