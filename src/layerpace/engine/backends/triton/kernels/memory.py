"""Pointers from tables, loads, and how the programs of a launch wait for each other.

A launch has a list of tasks, in an order in which none needs what a later one does. Programs draw tickets, so that
tasks begin in that order, whatever the order of the programs; one that must wait for others (the second pass of a
layer for its coefficients, those for the sums of all chunks) therefore waits for programs that run already, and there
is always one that need not wait: no launch stands still, however few programs the device runs at once.

What a program reads of another one's writes it reads past its own L1 cache (".cg"), after an acquire that follows the
other's release.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def signal(counter):
    """Say that what this program has written is there."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")


@triton.jit
def wait(counter, count):
    """Wait until that many programs have signalled."""
    while tl.atomic_add(counter, 0, sem="acquire") < count:
        pass
    tl.debug_barrier()


@triton.jit
def place(table, which, start, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """A pointer to an entry of a tensor whose address is in a table."""
    found = tl.load(table + which).to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def given(said, which):
    """A number that the host says: float64 []; see `kernels.tables`."""
    return tl.load(said + which).to(tl.float64, bitcast=True)


@triton.jit
def fetch(pointer, at, mask, MASKED: tl.constexpr, COMPUTE: tl.constexpr):
    """Entries in the dtype of the arithmetic; those that are not there are zero."""
    if MASKED:
        x = tl.load(pointer + at, mask=mask, other=0.0, cache_modifier=".cg")
    else:
        x = tl.load(pointer + at, cache_modifier=".cg")
    return x.to(COMPUTE)
