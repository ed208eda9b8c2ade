"""A look at the gradients before a step: sums over them, and what is clipped or held back by those."""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.memory import fetch, given, place, signal, wait
from layerpace.engine.backends.triton.kernels.prepare import DIVIDES, MULTIPLIES, nonzero_rates
from layerpace.engine.backends.triton.kernels.sums import COLUMN_COUNT, FOLD, add, column, store_sums
from layerpace.engine.backends.triton.kernels.tables import (
    CHUNK,
    CHUNKS,
    DONE,
    ENTRIES,
    FIRST,
    FIRST_CHUNK,
    LAYER,
    MAX_NORM,
    PARAM,
    PER_LAYER,
    READY,
    REDUCE,
    START,
    TICKETS,
    TOTAL,
)


@triton.jit
def look_over_chunk(
    layers, gradients, partial, moves, factor, layer, chunk,
    COLUMNS: tl.constexpr, MOVES: tl.constexpr, G_ALIGNED: tl.constexpr,
    STORED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = layers + layer.to(tl.int64) * LAYER
    param = tl.load(row + PARAM)
    size = tl.load(row + CHUNK)
    skipped = (chunk - tl.load(row + FIRST_CHUNK)) * size
    n = tl.minimum(size, tl.load(row + ENTRIES) - skipped)
    g_at = place(gradients, param, tl.load(row + START) + skipped, STORED, G_ALIGNED)
    none = tl.zeros([BLOCK // FOLD], tl.float64)
    a0, a1, a2, a3, a4, a5, a6, a7 = none, none, none, none, none, none, none, none
    zero = tl.full([], 0.0, COMPUTE)
    at = tl.arange(0, BLOCK)
    found = tl.zeros([BLOCK], tl.int32)
    whole = n // BLOCK * BLOCK
    for done in range(0, whole, BLOCK):
        g = fetch(g_at, done + at, at < n, False, COMPUTE) * factor
        found |= tl.where(g == 0, 0, 1)
        a0, a1, a2, a3, a4, a5, a6, a7 = add(a0, a1, a2, a3, a4, a5, a6, a7, g, g, zero, zero, COLUMNS)
    if whole < n:
        g = fetch(g_at, whole + at, whole + at < n, True, COMPUTE) * factor
        g = tl.where(whole + at < n, g, 0.0)  # a factor of inf or nan would show where nothing is
        found |= tl.where(g == 0, 0, 1)
        a0, a1, a2, a3, a4, a5, a6, a7 = add(a0, a1, a2, a3, a4, a5, a6, a7, g, g, zero, zero, COLUMNS)
    store_sums(partial + chunk.to(tl.int64) * COLUMN_COUNT, a0, a1, a2, a3, a4, a5, a6, a7, COLUMNS)
    if MOVES:
        if tl.max(found, axis=0) > 0:
            tl.store(moves, 1)


@triton.jit(do_not_specialize=["layer_count", "kind_count"])
def look_at_gradients(
    tasks, layer_of_chunk, layers, gradients, kinds, counters, partial, table, moves, scale, squares, clip,
    layer_count, kind_count,
    COLUMNS: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, MOVES: tl.constexpr, ONLY_MOVES: tl.constexpr,
    SCALE: tl.constexpr, CLIPS: tl.constexpr, SKIPS: tl.constexpr, FROM_OTHERS: tl.constexpr,
    G_ALIGNED: tl.constexpr, STORED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each task: chunks, layers, and then one for what is common to all of them.

    Args:
        tasks, layers, kinds, ...: see `kernels.tables` and `kernels.passes`.
        table: float64 [layers, WIDTH], the sums over each gradient times ``scale``, before weight decay.
        moves: int32 [1], set to 1 if a gradient has an entry that is not zero.
        squares: float64 [1], the sum of all squares so far, of other buckets too if FROM_OTHERS.
        clip: float64 [1], the factor that makes the joint norm at most the limit.
        ONLY_MOVES: nothing is to be done unless all learning rates are zero.
        CLIPS: squares and clip are wanted; SKIPS: without layers whose squares are not finite.
    """
    idle = 0
    if ONLY_MOVES:
        idle = nonzero_rates(kinds, kind_count)
    if idle == 0:
        ticket = tl.atomic_add(counters, 1, sem="relaxed")
        task = tl.load(tasks + 2 * ticket)
        number = tl.load(tasks + 2 * ticket + 1)
        if task == FIRST:
            factor = tl.full([], 1.0, COMPUTE)
            if SCALE == MULTIPLIES:
                factor = tl.load(scale).to(COMPUTE)
            if SCALE == DIVIDES:
                factor = (1.0 / tl.load(scale).to(tl.float64)).to(COMPUTE)
            layer = tl.load(layer_of_chunk + number)
            look_over_chunk(
                layers,
                gradients,
                partial,
                moves,
                factor,
                layer,
                number,
                COLUMNS,
                MOVES,
                G_ALIGNED,
                STORED,
                COMPUTE,
                BLOCK,
            )
            signal(counters + TICKETS + layer * PER_LAYER + DONE)
        if task == REDUCE:
            row = layers + number.to(tl.int64) * LAYER
            chunks = tl.load(row + CHUNKS)
            wait(counters + TICKETS + number * PER_LAYER + DONE, chunks.to(tl.int32))
            for which in tl.static_range(COLUMN_COUNT):
                column(partial, tl.load(row + FIRST_CHUNK), chunks, table, number, which, COLUMNS, ORDER, WIDTH, BLOCK)
            signal(counters + TICKETS + READY)
        if CLIPS:
            if task == TOTAL:
                wait(counters + TICKETS + READY, layer_count)  # of the first layer: all signal there
                max_norm = given(kinds, MAX_NORM)
                joint(table, squares, clip, layer_count, max_norm, ORDER, WIDTH, SKIPS, FROM_OTHERS, BLOCK)


@triton.jit
def joint(
    table, squares, clip, layer_count, max_norm,
    ORDER: tl.constexpr, WIDTH: tl.constexpr, SKIPS: tl.constexpr, FROM_OTHERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The joint norm of all gradients, and the factor that clips it."""
    at = tl.arange(0, BLOCK)
    found = tl.zeros([BLOCK], tl.float64)
    for start in range(0, layer_count, BLOCK):
        here = start + at < layer_count
        place_of_uu: tl.constexpr = (ORDER >> 4) & 15
        x = tl.load(table + (start + at) * WIDTH + place_of_uu, mask=here, other=0.0, cache_modifier=".cg")
        if SKIPS:
            x = tl.where(x - x == 0, x, 0.0)
        found += x
    total = tl.sum(found, axis=0)
    if FROM_OTHERS:
        total += tl.load(squares)
    tl.store(squares, total)
    factor = max_norm / tl.sqrt(total)
    tl.store(clip, tl.where(factor > 1.0, 1.0, factor))
