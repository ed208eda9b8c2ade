"""One pass over a chunk of a layer, or both at once: direction, sums, update."""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.arithmetic import nearest, random_bits, round_at_random
from layerpace.engine.backends.triton.kernels.directions import again, first
from layerpace.engine.backends.triton.kernels.memory import fetch, place
from layerpace.engine.backends.triton.kernels.sums import (
    COLUMN_COUNT,
    FOLD,
    MEASURED_COUNT,
    OF_WEIGHTS,
    add,
    add_moves,
    fold,
    store_sums,
)
from layerpace.engine.backends.triton.kernels.tables import (
    CHUNK,
    DECAY,
    ENTRIES,
    EPS,
    FACTOR,
    FIRST_CHUNK,
    FLOOR,
    HEADER,
    KEPT,
    KIND,
    KIND_WIDTH,
    L2,
    LAYER,
    MASTER,
    MOMENT,
    MOMENTUM,
    NUMBERS,
    PARAM,
    PLACES,
    SEED,
    START,
    TAKES,
    VELOCITY,
    WEIGHT,
    T,
)

NO_VELOCITY = tl.constexpr(0)
NESTEROV_VELOCITY = tl.constexpr(2)  # 1: heavy ball

PLAIN = tl.constexpr(0)
WITH_MASTER = tl.constexpr(1)
STOCHASTIC = tl.constexpr(2)


@triton.jit
def within_floats(x):
    """A float64 that a float32 can hold: beyond it would be inf, and nan times a zero. nan stays."""
    return tl.where(
        x > 3.4028234663852886e38,
        3.4028234663852886e38,
        tl.where(x < -3.4028234663852886e38, -3.4028234663852886e38, x),
    )


@triton.jit
def put(pointer, at, x, mask, MASKED: tl.constexpr):
    if MASKED:
        tl.store(pointer + at, x, mask=mask)
    else:
        tl.store(pointer + at, x)


@triton.jit
def put_moment(pointer, at, x, bits, mask, MASKED: tl.constexpr, DTYPE: tl.constexpr):
    """Moments that are narrower than the arithmetic are rounded at random."""
    if tl.bfloat16 == DTYPE:
        x = round_at_random(x, bits, DTYPE)
    put(pointer, at, x, mask, MASKED)


@triton.jit
def block(
    w_at, g_at, s0_at, s1_at, s2_at, v_at, master_at,
    at, n, entry, seed, t, takes,
    k0, k1, k2, k3, k4, k5, k6, k7, factor, l2, momentum, keep, eps, floor, c, b, lr,
    a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5,
    DO_FIRST: tl.constexpr, DO_SECOND: tl.constexpr, TAIL: tl.constexpr, HAS_C: tl.constexpr,
    DIRECTION: tl.constexpr, STATES: tl.constexpr, AGAIN_GRADIENT: tl.constexpr, AGAIN_READS: tl.constexpr,
    AGAIN_WRITES: tl.constexpr, COLUMNS: tl.constexpr, UPDATE: tl.constexpr, LOW_PRECISION: tl.constexpr,
    HAS_L2: tl.constexpr, MEASURES: tl.constexpr, GATED: tl.constexpr, DRAWS: tl.constexpr, LATE: tl.constexpr,
    STORED: tl.constexpr, MOMENTS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """One pass over a block of a chunk, or both at once; returns the sums, with those of the block added.

    Args:
        w_at, ..., master_at: pointers to the chunk.
        at: int [n], the entries of the chunk; n: how many it has; entry: int64 [], its first within the parameter.
        TAIL: it may end within the block.
        LATE: the second pass works the moments out again and writes them, so that what moves the weights is made of
            their values before they are rounded.
    """
    MASKED: tl.constexpr = TAIL or GATED
    ADVANCES: tl.constexpr = DO_FIRST or LATE
    ALL: tl.constexpr = (1 << STATES) - 1
    EARLY: tl.constexpr = 0 if LATE else ALL & ~AGAIN_WRITES
    READS: tl.constexpr = ALL if ADVANCES else AGAIN_READS
    WRITES: tl.constexpr = (ALL if DO_SECOND else EARLY) if ADVANCES else AGAIN_WRITES
    here = at < n
    kept = tl.zeros_like(at) + takes != 0  # what may be written
    if TAIL:
        kept = kept & here
    if DRAWS:
        r0, r1, r2, r3 = random_bits(seed, t, entry + at)
    else:
        r0, r1, r2, r3 = 0, 0, 0, 0

    w = tl.zeros([1], COMPUTE)
    g = tl.zeros([1], COMPUTE)
    if (DO_SECOND or HAS_L2) or OF_WEIGHTS & COLUMNS:
        w = fetch(w_at, at, here, TAIL, COMPUTE)
        if LOW_PRECISION == WITH_MASTER:
            # The master copy counts where the weight is its rounding; else something wrote the weight, and it counts.
            master = fetch(master_at, at, here, TAIL, COMPUTE)
            w = tl.where(nearest(master, STORED).to(COMPUTE) == w, master, w)
    if ADVANCES or AGAIN_GRADIENT:
        g = fetch(g_at, at, here, TAIL, COMPUTE) * factor
        if DO_FIRST and MEASURES:
            wide = tl.where(here, g, 0.0).to(tl.float64) if TAIL else g.to(tl.float64)
            m2 += fold(wide * wide)
        if HAS_L2:
            g = g + w * l2

    s0 = tl.zeros([1], COMPUTE)
    s1 = tl.zeros([1], COMPUTE)
    s2 = tl.zeros([1], COMPUTE)
    if READS & 1:
        s0 = fetch(s0_at, at, here, TAIL, COMPUTE)
    if READS & 2:
        s1 = fetch(s1_at, at, here, TAIL, COMPUTE)
    if READS & 4:
        s2 = fetch(s2_at, at, here, TAIL, COMPUTE)
    if ADVANCES:
        u, s0, s1, s2 = first(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION)
        if DO_SECOND and AGAIN_WRITES:
            u, s0, s1, s2 = again(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION)
    else:
        u, s0, s1, s2 = again(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION)
    if WRITES & 1:
        put_moment(s0_at, at, s0, r0, kept, MASKED, MOMENTS)
    if WRITES & 2:
        put_moment(s1_at, at, s1, r0 >> 16, kept, MASKED, MOMENTS)
    if WRITES & 4:
        put_moment(s2_at, at, s2, r1, kept, MASKED, MOMENTS)

    if DO_FIRST:
        if TAIL:
            u = tl.where(here, u, 0.0)
        a0, a1, a2, a3, a4, a5, a6, a7 = add(
            a0, a1, a2, a3, a4, a5, a6, a7, w, u, eps, floor, COLUMNS
        )  # fmt: skip
    if DO_SECOND:
        d = u * b + w * c if HAS_C else u * b
        if UPDATE != NO_VELOCITY:
            v = fetch(v_at, at, here, TAIL, COMPUTE) * momentum + d * keep
            d = (v * momentum + d if UPDATE == NESTEROV_VELOCITY else v) * lr
            put_moment(v_at, at, v, r2, kept, MASKED, MOMENTS)
        now = w - d
        if LOW_PRECISION == WITH_MASTER:
            put(master_at, at, now, kept, MASKED)
        if LOW_PRECISION == STOCHASTIC:
            stored = round_at_random(now, r3, STORED)
        else:
            stored = nearest(now, STORED)
        put(w_at, at, stored, kept, MASKED)
        if MEASURES:
            if LOW_PRECISION != WITH_MASTER:
                now = stored.to(COMPUTE)
            if TAIL:
                now = tl.where(here, now, 0.0)
            m0, m1, m3, m4, m5 = add_moves(m0, m1, m3, m4, m5, w, now)
    return a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5


@triton.jit
def over_chunk(
    layers, tensors, gradients, numbers, scalars, c_L, b_L, ratio_L, lr_L, kinds, partial, measured_partial,
    layer, chunk,
    DO_FIRST: tl.constexpr, DO_SECOND: tl.constexpr, HAS_C: tl.constexpr, LR_OUTSIDE: tl.constexpr,
    SPLIT: tl.constexpr, ALIGNED: tl.constexpr, G_ALIGNED: tl.constexpr,
    DIRECTION: tl.constexpr, STATES: tl.constexpr, AGAIN_GRADIENT: tl.constexpr, AGAIN_READS: tl.constexpr,
    AGAIN_WRITES: tl.constexpr, COLUMNS: tl.constexpr, UPDATE: tl.constexpr, LOW_PRECISION: tl.constexpr,
    HAS_L2: tl.constexpr, MEASURES: tl.constexpr, GATED: tl.constexpr, DRAWS: tl.constexpr, LATE: tl.constexpr,
    STORED: tl.constexpr, MOMENTS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pass over a chunk of a layer, or both at once; its sums are left in ``partial``, which others add up."""
    row = layers + layer.to(tl.int64) * LAYER
    param = tl.load(row + PARAM)
    size = tl.load(row + CHUNK)
    skipped = (chunk - tl.load(row + FIRST_CHUNK)) * size
    n = tl.minimum(size, tl.load(row + ENTRIES) - skipped)
    start = tl.load(row + START) + skipped
    own = tensors + param * PLACES
    w_at = place(own, WEIGHT, start, STORED, ALIGNED)
    g_at = place(gradients, param, start, STORED, G_ALIGNED)
    s0_at = place(own, MOMENT, start, MOMENTS, ALIGNED)
    s1_at = place(own, MOMENT + 1, start, MOMENTS, ALIGNED)
    s2_at = place(own, MOMENT + 2, start, MOMENTS, ALIGNED)
    v_at = place(own, VELOCITY, start, MOMENTS, ALIGNED)
    master_at = place(own, MASTER, start, tl.float32, ALIGNED)

    mine = numbers + layer * NUMBERS
    k0 = tl.load(mine).to(COMPUTE)
    k1 = tl.load(mine + 1).to(COMPUTE)
    k2 = tl.load(mine + 2).to(COMPUTE)
    k3 = tl.load(mine + 3).to(COMPUTE)
    k4 = tl.load(mine + 4).to(COMPUTE)
    k5 = tl.load(mine + 5).to(COMPUTE)
    k6 = tl.load(mine + 6).to(COMPUTE)
    k7 = tl.load(mine + 7).to(COMPUTE)
    t = tl.load(mine + T)
    takes = tl.load(mine + TAKES).to(tl.int32)
    seed = tl.load(row + SEED)
    factor = tl.load(scalars + FACTOR).to(COMPUTE)
    l2 = tl.load(scalars + L2).to(COMPUTE)
    momentum = tl.load(scalars + MOMENTUM).to(COMPUTE)
    keep = tl.load(scalars + KEPT).to(COMPUTE)
    eps = tl.load(scalars + EPS).to(COMPUTE)
    floor = tl.load(scalars + FLOOR).to(COMPUTE)
    c, b, lr = t * 0.0, t * 0.0, t * 0.0 + 1.0
    if DO_SECOND:
        if LR_OUTSIDE and not SPLIT:
            kind = kinds + HEADER + tl.load(row + KIND) * KIND_WIDTH
            decay = tl.load(kind + DECAY).to(tl.float64, bitcast=True)
            b = tl.load(ratio_L + layer, cache_modifier=".cg")
            c = b * decay
        else:
            b = tl.load(b_L + layer, cache_modifier=".cg")
            if HAS_C:
                c = tl.load(c_L + layer, cache_modifier=".cg")
        if LR_OUTSIDE:
            lr = tl.load(lr_L + layer)
        if tl.float32 == COMPUTE:
            b, c = within_floats(b), within_floats(c)
    c, b, lr = c.to(COMPUTE), b.to(COMPUTE), lr.to(COMPUTE)

    none = tl.zeros([BLOCK // FOLD], tl.float64)
    a0, a1, a2, a3, a4, a5, a6, a7 = none, none, none, none, none, none, none, none
    m0, m1, m2, m3, m4, m5 = none, none, none, none, none, none
    at = tl.arange(0, BLOCK)
    whole = n // BLOCK * BLOCK
    for done in range(0, whole, BLOCK):
        a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5 = block(
            w_at, g_at, s0_at, s1_at, s2_at, v_at, master_at, done + at, n, start, seed, t, takes,
            k0, k1, k2, k3, k4, k5, k6, k7, factor, l2, momentum, keep, eps, floor, c, b, lr,
            a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5,
            DO_FIRST, DO_SECOND, False, HAS_C, DIRECTION, STATES, AGAIN_GRADIENT, AGAIN_READS, AGAIN_WRITES, COLUMNS,
            UPDATE, LOW_PRECISION, HAS_L2, MEASURES, GATED, DRAWS, LATE, STORED, MOMENTS, COMPUTE,
        )  # fmt: skip
    if whole < n:
        a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5 = block(
            w_at, g_at, s0_at, s1_at, s2_at, v_at, master_at, whole + at, n, start, seed, t, takes,
            k0, k1, k2, k3, k4, k5, k6, k7, factor, l2, momentum, keep, eps, floor, c, b, lr,
            a0, a1, a2, a3, a4, a5, a6, a7, m0, m1, m2, m3, m4, m5,
            DO_FIRST, DO_SECOND, True, HAS_C, DIRECTION, STATES, AGAIN_GRADIENT, AGAIN_READS, AGAIN_WRITES, COLUMNS,
            UPDATE, LOW_PRECISION, HAS_L2, MEASURES, GATED, DRAWS, LATE, STORED, MOMENTS, COMPUTE,
        )  # fmt: skip

    sums = partial + chunk.to(tl.int64) * COLUMN_COUNT
    moves = measured_partial + chunk.to(tl.int64) * MEASURED_COUNT
    if DO_FIRST:
        store_sums(sums, a0, a1, a2, a3, a4, a5, a6, a7, COLUMNS)
        if MEASURES:
            tl.store(moves + 2, tl.sum(m2, axis=0))
    if DO_SECOND and MEASURES:
        tl.store(moves + 0, tl.sum(m0, axis=0))
        tl.store(moves + 1, tl.sum(m1, axis=0))
        tl.store(moves + 3, tl.sum(m3, axis=0))
        tl.store(moves + 4, tl.sum(m4, axis=0))
        tl.store(moves + 5, tl.sum(m5, axis=0))
