"""Tensors that share memory with what a step writes.

Kernels move layers in no fixed order, several at a time, and bucket after bucket: where a gradient lies in another
weight's memory, or two parameters are views of overlapping memory, the outcome would depend on that order. Such a step
is the reference's, which makes all directions before it moves any weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerpace.engine.backends import Work
from layerpace.engine.backends.cpu import native
from layerpace.engine.backends.watch import PythonWatch, spans


def keep_apart(works: Sequence[Work]) -> bool:
    """Whether no tensor of any bucket lies in memory that the step writes: weights, moments and other state.

    If so, the buckets' watches look where later gradients lie, each time that one is at a new address, and do not hold
    if it is memory that is written.
    """
    watches: list[Any] = [work.watch for work in works if work.watch is not None]
    if not watches:
        return True  # all of them are the reference's already
    apart = [work for work in works if work.watch is None]
    written = spans(x for work in apart for x in (*work.params, *(y for state in work.state for y in state.values())))
    read = spans(grad for work in apart for grad in work.grads)
    compiled = native()
    kept: bool = (PythonWatch if compiled is None else compiled).keep_apart(watches, written, read)
    return kept
