"""What comes before the passes of a step: which layers take it, step counts, rates, and the constants of directions."""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.directions import ADAM, AMSGRAD, NADAM, prepare, rate
from layerpace.engine.backends.triton.kernels.memory import given
from layerpace.engine.backends.triton.kernels.tables import (
    DECAY,
    EXCLUDED,
    GIVEN,
    HEADER,
    KIND,
    KIND_WIDTH,
    LAYER,
    MOMENTA,
    NUMBERS,
    OPTION,
    PER_LAYER,
    PRODUCT,
    RATE,
    RATE_ADDRESS,
    RATE_IS_DOUBLE,
    SCALARS,
    STEP,
    STEPS,
    TAKES,
    TICKETS,
    K,
    T,
)

# Where the number of the step comes from.
FROM_HOST = tl.constexpr(0)
FROM_VECTOR = tl.constexpr(1)
FROM_STATE = tl.constexpr(2)

# What a scale of gradients does.
MULTIPLIES = tl.constexpr(1)
DIVIDES = tl.constexpr(2)


@triton.jit
def learning_rate(kinds, kind, here):
    """The learning rate of some kinds, float64, from the host or from where the user keeps it on this device."""
    row = kinds + HEADER + kind * KIND_WIDTH
    own = tl.load(row + RATE, mask=here, other=0).to(tl.float64, bitcast=True)
    address = tl.load(row + RATE_ADDRESS, mask=here, other=0)
    double = tl.load(row + RATE_IS_DOUBLE, mask=here, other=0) != 0
    far = here & (address != 0)
    wide = tl.load(address.to(tl.pointer_type(tl.float64)), mask=far & double, other=0.0)
    narrow = tl.load(address.to(tl.pointer_type(tl.float32)), mask=far & (double == 0), other=0.0)
    return tl.where(far, tl.where(double, wide, narrow.to(tl.float64)), own)


@triton.jit
def nonzero_rates(kinds, count):
    """How many kinds have a learning rate that is not zero."""
    found = 0
    for kind in range(count):
        lr = learning_rate(kinds, kind + tl.arange(0, 1), tl.arange(0, 1) == 0)
        found += tl.sum(tl.where(lr == 0, 0, 1), axis=0)
    return found


@triton.jit(do_not_specialize=["t", "layer_count", "kind_count"])
def prepare_step(
    layers, kinds, numbers, scalars, counters, lr_L, c_L, b_L, ratio_L,
    layer_count, kind_count, t, t_L, ok_L, found_inf, nonfinite_L, moves, scale, clip,
    DIRECTION: tl.constexpr, RATE_AFTER: tl.constexpr, COUNT: tl.constexpr, HAS_RATES: tl.constexpr,
    FIXED: tl.constexpr,
    HAS_OK: tl.constexpr, HAS_FOUND_INF: tl.constexpr, SKIPS: tl.constexpr, PHANTOM: tl.constexpr,
    NONFINITE_WIDTH: tl.constexpr, SCALE: tl.constexpr, HAS_CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for each block of layers.

    Args:
        layers, kinds, numbers, scalars, counters: see `kernels.tables`.
        lr_L, c_L, b_L, ratio_L: float64 [layers]: learning rates; coefficients of layers that do not wait for sums.
        t, t_L: the number of the step, of all layers or of each; float64.
        ok_L: bool [layers], the layers that take the step.
        found_inf: float32 [1]: not zero: no layer does.
        nonfinite_L: float64, of each layer the number of inf and nan in its gradient, NONFINITE_WIDTH apart.
        moves: int32 [1]: whether any gradient is not zero.
        scale: what gradients are to be multiplied or divided by, one number on this device.
        clip: float64 [1]: another such factor.
        FIXED: no rule reads sums: all coefficients are those of the identity.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = place < layer_count
    row = layers + place.to(tl.int64) * LAYER
    zero = tl.zeros([BLOCK], tl.float64)

    for counter in tl.static_range(3):
        tl.store(counters + TICKETS + place * PER_LAYER + counter, 0, mask=here)
    if tl.program_id(0) == 0:
        for ticket in tl.static_range(2):
            tl.store(counters + ticket, 0)
        factor = given(kinds, GIVEN)
        if SCALE == MULTIPLIES:
            factor *= tl.load(scale).to(tl.float64)
        if SCALE == DIVIDES:
            factor *= 1.0 / tl.load(scale).to(tl.float64)
        if HAS_CLIP:
            factor *= tl.load(clip)
        tl.store(scalars, factor)
        for which in tl.static_range(1, SCALARS):
            tl.store(scalars + which, given(kinds, GIVEN + which))

    takes = here
    if HAS_OK:
        takes = takes & (tl.load(ok_L + place, mask=here, other=0) != 0)
    if HAS_FOUND_INF:
        takes = takes & (zero + tl.load(found_inf).to(tl.float64) == 0)
    if SKIPS:
        takes = takes & (tl.load(nonfinite_L + place * NONFINITE_WIDTH, mask=here, other=0.0) == 0)
    if PHANTOM:
        moving = nonzero_rates(kinds, kind_count) + tl.load(moves)
        takes = takes & (tl.zeros([BLOCK], tl.int32) + moving > 0)

    # What is written into the state is left for the next launch, so that no thread reads what another one has written.
    own = numbers + place * NUMBERS
    if COUNT == FROM_HOST:
        number = zero + t
    elif COUNT == FROM_VECTOR:
        number = tl.load(t_L + place, mask=here, other=1.0)
    else:
        steps = tl.load(row + STEP, mask=here, other=0).to(tl.pointer_type(tl.float32))
        number = (tl.load(steps, mask=here, other=0.0) + tl.where(takes, 1.0, 0.0)).to(tl.float64)
        tl.store(own + STEPS, number, mask=here)
        # A layer that has been held back since its first step counts 0, and bias correction would divide by zero.
        number = tl.where(number < 1.0, 1.0, number)

    before = zero
    if DIRECTION == NADAM:
        products = tl.load(row + PRODUCT, mask=here, other=0).to(tl.pointer_type(tl.float64))
        before = tl.load(products, mask=here, other=0.0)
    a0, a1 = zero + given(kinds, OPTION), zero + given(kinds, OPTION + 1)
    a2, a3 = zero + given(kinds, OPTION + 2), zero + given(kinds, OPTION + 3)
    a4, a5 = zero + given(kinds, OPTION + 4), zero + given(kinds, OPTION + 5)
    k0, k1, k2, k3, k4, k5, k6, k7, product = prepare(a0, a1, a2, a3, a4, a5, number, before, DIRECTION)
    if DIRECTION == NADAM:
        tl.store(own + MOMENTA, tl.where(takes, product, before), mask=here)
    tl.store(own + K + 0, k0, mask=here)
    tl.store(own + K + 1, k1, mask=here)
    tl.store(own + K + 2, k2, mask=here)
    tl.store(own + K + 3, k3, mask=here)
    tl.store(own + K + 4, k4, mask=here)
    tl.store(own + K + 5, k5, mask=here)
    tl.store(own + K + 6, k6, mask=here)
    tl.store(own + K + 7, k7, mask=here)
    tl.store(own + T, number, mask=here)
    tl.store(own + TAKES, tl.where(takes, 1.0, zero), mask=here)

    if HAS_RATES:
        kind = tl.load(row + KIND, mask=here, other=0)
        lr = learning_rate(kinds, kind, here)
        if RATE_AFTER:
            tl.static_assert(DIRECTION == ADAM or DIRECTION == AMSGRAD)
            lr *= rate(a0, a1, number)
        tl.store(lr_L + place, lr, mask=here)
        excluded = tl.load(row + EXCLUDED, mask=here, other=0) != 0
        decay = tl.load(kinds + HEADER + kind * KIND_WIDTH + DECAY, mask=here, other=0).to(tl.float64, bitcast=True)
        fixed = here & (excluded | FIXED)
        tl.store(c_L + place, lr * decay, mask=fixed)
        tl.store(b_L + place, lr, mask=fixed)
        tl.store(ratio_L + place, zero + 1.0, mask=fixed)
