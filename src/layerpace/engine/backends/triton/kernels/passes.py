"""The passes of a step over all layers, in one launch.

    first pass over a layer's chunks -> sums -> rule -> second pass, while what the first has read is in the L2 cache

`triton/tables.py` makes the list of tasks; see `kernels.memory` for how they wait for each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.chunks import over_chunk
from layerpace.engine.backends.triton.kernels.directions import NADAM
from layerpace.engine.backends.triton.kernels.memory import given, signal, wait
from layerpace.engine.backends.triton.kernels.rules import (
    IDENTITY,
    LIMITED_NORM,
    NO_RULE,
    PERCENT_DELTA,
    RELATIVE_L1,
    ROTATION,
    TRUST_RATIO,
    limited_norm,
    percent_delta,
    phi,
    relative_l1,
    rotation,
    trust_ratio,
)
from layerpace.engine.backends.triton.kernels.sums import MEASURED_COUNT, column, over_chunks
from layerpace.engine.backends.triton.kernels.tables import (
    BOTH,
    CHUNKS,
    DECAY,
    DONE,
    ENTRIES,
    EXCLUDED,
    FIRST,
    FIRST_CHUNK,
    HEADER,
    KEEP_COUNTS,
    KIND,
    KIND_WIDTH,
    LAYER,
    MEASURE,
    MEMORY,
    MIN_RMS,
    MOMENTA,
    MOVED,
    NUMBERS,
    OF_LAYER,
    PER_LAYER,
    PRODUCT,
    READY,
    REDUCE,
    ROWS,
    RULE_OPTION,
    SECOND,
    STEP,
    STEPS,
    TAKES,
    TICKETS,
    UNDECAYED,
    T,
)


@triton.jit
def decide(
    layers, numbers, kinds, partial, table, lr_L, c_L, b_L, ratio_L, layer,
    RULE: tl.constexpr, NORM: tl.constexpr, CLIP: tl.constexpr, ADAPTS_ALL: tl.constexpr, HAS_ZERO: tl.constexpr,
    COLUMNS: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The row of a layer in the table, and the rule on it."""
    row = layers + layer.to(tl.int64) * LAYER
    from_chunk, chunks = tl.load(row + FIRST_CHUNK), tl.load(row + CHUNKS)
    ww = column(partial, from_chunk, chunks, table, layer, 0, COLUMNS, ORDER, WIDTH, BLOCK)
    uu = column(partial, from_chunk, chunks, table, layer, 1, COLUMNS, ORDER, WIDTH, BLOCK)
    wu = column(partial, from_chunk, chunks, table, layer, 2, COLUMNS, ORDER, WIDTH, BLOCK)
    w_l1 = column(partial, from_chunk, chunks, table, layer, 3, COLUMNS, ORDER, WIDTH, BLOCK)
    u_l1 = column(partial, from_chunk, chunks, table, layer, 4, COLUMNS, ORDER, WIDTH, BLOCK)
    over_w = column(partial, from_chunk, chunks, table, layer, 5, COLUMNS, ORDER, WIDTH, BLOCK)
    over_floor = column(partial, from_chunk, chunks, table, layer, 6, COLUMNS, ORDER, WIDTH, BLOCK)
    column(partial, from_chunk, chunks, table, layer, 7, COLUMNS, ORDER, WIDTH, BLOCK)
    if RULE != NO_RULE and RULE != IDENTITY:
        n = tl.load(row + ENTRIES).to(tl.float64)
        lr = tl.load(lr_L + layer)
        own = numbers + layer * NUMBERS
        r0, min_rms = given(kinds, RULE_OPTION), given(kinds, MIN_RMS)
        if RULE == ROTATION or RULE == LIMITED_NORM:
            memory = tl.load(row + MEMORY).to(tl.pointer_type(tl.float64))
            norm = tl.load(memory)
            if tl.load(own + T) == 1:
                norm = phi(ww, n, min_rms)
                if tl.load(own + TAKES) != 0:
                    tl.store(memory, norm)
        if RULE == TRUST_RATIO:
            kind = kinds + HEADER + tl.load(row + KIND) * KIND_WIDTH
            decay = tl.load(kind + DECAY).to(tl.float64, bitcast=True)
            undecayed = tl.load(kind + UNDECAYED) != 0
            r1, r2 = given(kinds, RULE_OPTION + 1), given(kinds, RULE_OPTION + 2)
            r3, r4 = given(kinds, RULE_OPTION + 3), given(kinds, RULE_OPTION + 4)
            c, b, ratio = trust_ratio(
                ww, uu, wu, n, lr, decay, undecayed, r0, r1, r2, r3, r4, min_rms, NORM, CLIP, ADAPTS_ALL, HAS_ZERO
            )
        elif RULE == PERCENT_DELTA:
            c, b, ratio = percent_delta(ww, over_w, over_floor, n, lr, min_rms)
        elif RULE == RELATIVE_L1:
            c, b, ratio = relative_l1(w_l1, u_l1, n, lr, min_rms)
        elif RULE == ROTATION:
            c, b, ratio = rotation(ww, uu, wu, n, lr, min_rms, norm, r0)
        else:
            tl.static_assert(RULE == LIMITED_NORM)
            c, b, ratio = limited_norm(ww, uu, wu, n, lr, min_rms, norm, r0)
        if tl.load(row + EXCLUDED) == 0:  # else they stand there already
            tl.store(c_L + layer, c)
            tl.store(b_L + layer, b)
            tl.store(ratio_L + layer, ratio)


@triton.jit
def measure(layers, numbers, measured_partial, measured, layer, BLOCK: tl.constexpr):
    """The row of a layer in what monitors read; nan for one that was held back."""
    row = layers + layer.to(tl.int64) * LAYER
    from_chunk, chunks = tl.load(row + FIRST_CHUNK), tl.load(row + CHUNKS)
    takes = tl.load(numbers + layer * NUMBERS + TAKES) != 0
    for which in tl.static_range(MEASURED_COUNT):
        total = over_chunks(measured_partial, from_chunk, chunks, which, MEASURED_COUNT, BLOCK)
        tl.store(measured + layer * MEASURED_COUNT + which, tl.where(takes, total, float("nan")))


@triton.jit
def fill(places, value, rows, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    for start in range(0, rows, BLOCK):
        tl.store(places + start + at, value + tl.zeros([BLOCK], value.dtype), mask=start + at < rows)


@triton.jit
def keep_counts(layers, numbers, layer, COUNTS: tl.constexpr, DIRECTION: tl.constexpr, BLOCK: tl.constexpr):
    """Write what `prepare_step` has counted into the optimizer's state."""
    row = layers + layer.to(tl.int64) * LAYER
    own = numbers + layer * NUMBERS
    rows = tl.load(row + ROWS)
    if COUNTS:
        fill(tl.load(row + STEP).to(tl.pointer_type(tl.float32)), tl.load(own + STEPS).to(tl.float32), rows, BLOCK)
    if DIRECTION == NADAM:
        fill(tl.load(row + PRODUCT).to(tl.pointer_type(tl.float64)), tl.load(own + MOMENTA), rows, BLOCK)


@triton.jit
def run_tasks(
    tasks, layer_of_chunk, layers, tensors, gradients, kinds, numbers, scalars, counters,
    partial, measured_partial, table, measured, lr_L, c_L, b_L, ratio_L,
    TICKET: tl.constexpr, DOES: tl.constexpr, SPLIT: tl.constexpr,
    HAS_C: tl.constexpr, LR_OUTSIDE: tl.constexpr, RULE: tl.constexpr, NORM: tl.constexpr, CLIP: tl.constexpr,
    ADAPTS_ALL: tl.constexpr, HAS_ZERO: tl.constexpr, ALIGNED: tl.constexpr, G_ALIGNED: tl.constexpr,
    ORDER: tl.constexpr, WIDTH: tl.constexpr, COUNTS: tl.constexpr,
    DIRECTION: tl.constexpr, STATES: tl.constexpr, AGAIN_GRADIENT: tl.constexpr, AGAIN_READS: tl.constexpr,
    AGAIN_WRITES: tl.constexpr, COLUMNS: tl.constexpr, UPDATE: tl.constexpr, LOW_PRECISION: tl.constexpr,
    HAS_L2: tl.constexpr, MEASURES: tl.constexpr, GATED: tl.constexpr, DRAWS: tl.constexpr, LATE: tl.constexpr,
    STORED: tl.constexpr, MOMENTS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each task.

    Args:
        tasks: int32 [tasks, 2]; see `kernels.tables` for these and the others.
        layer_of_chunk: int32 [chunks].
        partial, measured_partial: float64 [chunks, 8] and [chunks, 6], the sums of the chunks.
        table, measured: float64 [layers, WIDTH] and [layers, 6], those of the layers.
        lr_L, c_L, b_L, ratio_L: float64 [layers].
        TICKET: of the two launches that a step may have.
        DOES: the kinds of tasks that there are.
        SPLIT: coefficients come from Python.
        COUNTS: steps are counted on this device.
    """
    ticket = tl.atomic_add(counters + TICKET, 1, sem="relaxed")
    task = tl.load(tasks + 2 * ticket)
    number = tl.load(tasks + 2 * ticket + 1)
    if (task & OF_LAYER) == task:
        layer, chunk = number, number * 0
    else:
        layer, chunk = tl.load(layer_of_chunk + number), number
    own = counters + TICKETS + layer * PER_LAYER
    chunks = tl.load(layers + layer.to(tl.int64) * LAYER + CHUNKS).to(tl.int32)
    if KEEP_COUNTS & DOES:
        if (task & KEEP_COUNTS) != 0:
            keep_counts(layers, numbers, layer, COUNTS, DIRECTION, BLOCK)
    if FIRST & DOES:
        if (task & FIRST) != 0:
            over_chunk(
                layers, tensors, gradients, numbers, scalars, c_L, b_L, ratio_L, lr_L, kinds, partial,
                measured_partial, layer, chunk, True, False, HAS_C, LR_OUTSIDE, SPLIT, ALIGNED, G_ALIGNED,
                DIRECTION, STATES, AGAIN_GRADIENT, AGAIN_READS, AGAIN_WRITES, COLUMNS, UPDATE, LOW_PRECISION,
                HAS_L2, MEASURES, GATED, DRAWS, LATE, STORED, MOMENTS, COMPUTE, BLOCK,
            )  # fmt: skip
            signal(own + DONE)
    if BOTH & DOES:
        if (task & BOTH) != 0:
            over_chunk(
                layers, tensors, gradients, numbers, scalars, c_L, b_L, ratio_L, lr_L, kinds, partial,
                measured_partial, layer, chunk, True, True, HAS_C, LR_OUTSIDE, SPLIT, ALIGNED, G_ALIGNED,
                DIRECTION, STATES, AGAIN_GRADIENT, AGAIN_READS, AGAIN_WRITES, COLUMNS, UPDATE, LOW_PRECISION,
                HAS_L2, MEASURES, GATED, DRAWS, LATE, STORED, MOMENTS, COMPUTE, BLOCK,
            )  # fmt: skip
            signal(own + DONE)
            if MEASURES:
                signal(own + MOVED)
    if REDUCE & DOES:
        if (task & REDUCE) != 0:
            wait(own + DONE, chunks)
            decide(
                layers, numbers, kinds, partial, table, lr_L, c_L, b_L, ratio_L, layer,
                RULE, NORM, CLIP, ADAPTS_ALL, HAS_ZERO, COLUMNS, ORDER, WIDTH, BLOCK,
            )  # fmt: skip
            signal(own + READY)
    if SECOND & DOES:
        if (task & SECOND) != 0:
            if not SPLIT:
                wait(own + READY, 1)
            over_chunk(
                layers, tensors, gradients, numbers, scalars, c_L, b_L, ratio_L, lr_L, kinds, partial,
                measured_partial, layer, chunk, False, True, HAS_C, LR_OUTSIDE, SPLIT, ALIGNED, G_ALIGNED,
                DIRECTION, STATES, AGAIN_GRADIENT, AGAIN_READS, AGAIN_WRITES, COLUMNS, UPDATE, LOW_PRECISION,
                HAS_L2, MEASURES, GATED, DRAWS, LATE, STORED, MOMENTS, COMPUTE, BLOCK,
            )  # fmt: skip
            if MEASURES:
                signal(own + MOVED)
    if MEASURE & DOES:
        if (task & MEASURE) != 0:
            wait(own + MOVED, chunks)
            measure(layers, numbers, measured_partial, measured, layer, BLOCK)
