"""The sums over a layer, in float64: the columns of the table, and those that monitors read.

A program adds entry by entry into vectors of a block's length, and those up at the end of its chunk. A set of columns
is a number with a bit for each, in the order of `layerpace.columns.COLUMNS`, known when a kernel is compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.arithmetic import divide, maximum

WW = tl.constexpr(1 << 0)
UU = tl.constexpr(1 << 1)
WU = tl.constexpr(1 << 2)
W_L1 = tl.constexpr(1 << 3)
U_L1 = tl.constexpr(1 << 4)
U_OVER_W_L1 = tl.constexpr(1 << 5)
U_OVER_FLOOR_L1 = tl.constexpr(1 << 6)
NONFINITE = tl.constexpr(1 << 7)
OF_WEIGHTS = tl.constexpr((1 << 0) | (1 << 2) | (1 << 3) | (1 << 5) | (1 << 6))
COLUMN_COUNT = tl.constexpr(8)
MEASURED_COUNT = tl.constexpr(6)


FOLD = tl.constexpr(4)  # entries that a thread has side by side: added at once, so that sums take few registers


@triton.jit
def fold(x):
    """Sums of neighbours: [n] -> [n / FOLD]."""
    return tl.sum(tl.reshape(x, [x.shape[0] // FOLD, FOLD]), axis=1)


@triton.jit
def add(a0, a1, a2, a3, a4, a5, a6, a7, w, u, eps, floor, COLUMNS: tl.constexpr):
    """The sums of a block added to those of the blocks before; entries that are not there are zero in w and u."""
    wide_w, wide_u = w.to(tl.float64), u.to(tl.float64)
    if WW & COLUMNS:
        a0 += fold(wide_w * wide_w)
    if UU & COLUMNS:
        a1 += fold(wide_u * wide_u)
    if WU & COLUMNS:
        a2 += fold(wide_w * wide_u)
    if W_L1 & COLUMNS:
        a3 += fold(tl.abs(wide_w))
    if U_L1 & COLUMNS:
        a4 += fold(tl.abs(wide_u))
    # 0/0 is a weight of zero that asks for no change: it adds nothing.
    if U_OVER_W_L1 & COLUMNS:
        a5 += fold(tl.where(u == 0, 0.0, tl.abs(divide(u, tl.abs(w) + eps))).to(tl.float64))
    if U_OVER_FLOOR_L1 & COLUMNS:
        a6 += fold(tl.where(u == 0, 0.0, tl.abs(divide(u, maximum(tl.abs(w), floor)))).to(tl.float64))
    if NONFINITE & COLUMNS:
        a7 += fold(tl.where(u - u == 0, 0.0, 1.0))
    return a0, a1, a2, a3, a4, a5, a6, a7


@triton.jit
def add_moves(m0, m1, m3, m4, m5, w, now):
    """<w, w>, |w|_1, <d, d>, <w, d>, |d|_1 of a block, added to those of the blocks before; d = w - now."""
    wide = w.to(tl.float64)
    d = wide - now.to(tl.float64)
    return (
        m0 + fold(wide * wide),
        m1 + fold(tl.abs(wide)),
        m3 + fold(d * d),
        m4 + fold(wide * d),
        m5 + fold(tl.abs(d)),
    )


@triton.jit
def over_chunks(partial, first, chunks, COLUMN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One column over the chunks of a layer, in a fixed order: float64 [].

    Args:
        partial: float64 [chunks of all layers, WIDTH].
        first, chunks: the chunks of the layer.
    """
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, chunks, BLOCK):
        row = first + start + at
        # Written by other programs of the same launch: not from a cache of this one's.
        total += tl.load(partial + row * WIDTH + COLUMN, mask=start + at < chunks, other=0.0, cache_modifier=".cg")
    return tl.sum(total, axis=0)


@triton.jit
def store_sums(sums, a0, a1, a2, a3, a4, a5, a6, a7, COLUMNS: tl.constexpr):
    """The columns of a chunk."""
    if WW & COLUMNS:
        tl.store(sums + 0, tl.sum(a0, axis=0))
    if UU & COLUMNS:
        tl.store(sums + 1, tl.sum(a1, axis=0))
    if WU & COLUMNS:
        tl.store(sums + 2, tl.sum(a2, axis=0))
    if W_L1 & COLUMNS:
        tl.store(sums + 3, tl.sum(a3, axis=0))
    if U_L1 & COLUMNS:
        tl.store(sums + 4, tl.sum(a4, axis=0))
    if U_OVER_W_L1 & COLUMNS:
        tl.store(sums + 5, tl.sum(a5, axis=0))
    if U_OVER_FLOOR_L1 & COLUMNS:
        tl.store(sums + 6, tl.sum(a6, axis=0))
    if NONFINITE & COLUMNS:
        tl.store(sums + 7, tl.sum(a7, axis=0))


@triton.jit
def column(
    partial, first, chunks, table, layer,
    WHICH: tl.constexpr, COLUMNS: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A column of a layer, which is put into the table too; zero if it is not asked for.

    Args:
        table: float64 [layers, WIDTH].
        ORDER: the place of each column in the table, four bits each.
    """
    if COLUMNS & (1 << WHICH):
        total = over_chunks(partial, first, chunks, WHICH, COLUMN_COUNT, BLOCK)
        tl.store(table + layer * WIDTH + ((ORDER >> (4 * WHICH)) & 15), total)
    else:
        total = tl.full([], 0.0, tl.float64)
    return total
