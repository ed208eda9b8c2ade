"""Arithmetic that is rounded as IEEE 754 and torch have it, and the rounding of what is stored in 16 bits.

Triton's own division and root of float32 are approximations, and its maximum loses a nan. Version 3.2 takes numbers
below 1.2e-38 for zeros in the exact ones, too.
"""

from __future__ import annotations

import triton
import triton.language as tl

PHILOX_ROUNDS = tl.constexpr(7)  # the fewest that pass every test of Salmon et al. (2011)


@triton.jit
def divide(a, b):
    """a / b to nearest."""
    if a.dtype == tl.float32:
        return tl.math.div_rn(a, b)
    else:
        return a / b


@triton.jit
def root(x):
    """The square root to nearest."""
    if x.dtype == tl.float32:
        return tl.math.sqrt_rn(x)
    else:
        return tl.math.sqrt(x)


@triton.jit
def maximum(a, b):
    """The larger of both; nan where either is."""
    return tl.where((a != a) | (a > b), a, b)


@triton.jit
def power(base, exponent):
    """base^exponent of float64 numbers, for 0 <= base < 1 and exponent > 0."""
    tiny = tl.where(base == 0, 1.0, base)
    return tl.where(base == 0, 0.0, tl.exp(exponent * tl.log(tiny)))


@triton.jit
def random_bits(seed, t, entry):
    """Four uint32 for each entry of a parameter in its t-th step: Philox 4x32.

    Args:
        seed: int64 [], of the parameter.
        t: float64 [], the number of the step.
        entry: int64 [n], the numbers of the entries.
    """
    low = (entry & 0xFFFFFFFF).to(tl.uint32)
    high = (entry >> 32).to(tl.uint32)
    step = tl.zeros_like(low) + t.to(tl.int64).to(tl.uint32)
    return tl.philox(seed, low, high, step, tl.zeros_like(low), n_rounds=PHILOX_ROUNDS)


@triton.jit
def nearest(x, DTYPE: tl.constexpr):
    """x in another dtype, to nearest, ties to even; Triton's interpreter truncates to bfloat16 instead."""
    if tl.bfloat16 == DTYPE:
        own = x.to(tl.uint32, bitcast=True)
        half = tl.where(x != x, 0x7FC0, (own + 0x7FFF + ((own >> 16) & 1)) >> 16)
        return half.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def round_at_random(x, bits, DTYPE: tl.constexpr):
    """float32 numbers in bfloat16 or float16, up or down with the probabilities that make the mean right.

    Args:
        x: float32 [n]; inf and nan stay, and so does what DTYPE has.
        bits: uint32 [n], of which the lower 16 are used.
        DTYPE: of the result.
    """
    own = x.to(tl.uint32, bitcast=True)
    size = own & 0x7FFFFFFF
    random = bits & 0xFFFF
    if tl.bfloat16 == DTYPE:
        # A bfloat16 is the upper half of a float32: a random lower half is added, and its carry decides.
        quiet = (own >> 16) | tl.where(size > 0x7F800000, 0x40, 0).to(tl.uint32)
        half = tl.where(size >= 0x7F800000, quiet, (own + random) >> 16)
        return half.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        # In units of 2^-24, the spacing of subnormal numbers; exact in float64.
        steps = tl.abs(x).to(tl.float64) * 16777216.0 + random.to(tl.float64) * (1.0 / 65536.0)
        small = tl.where(size < 0x38800000, steps, 0.0).to(tl.uint32)
        normal = tl.minimum((size - 0x38000000 + (random & 0x1FFF)) >> 13, 0x7C00)
        special = tl.where(size > 0x7F800000, 0x7E00, 0x7C00).to(tl.uint32)
        half = tl.where(size >= 0x7F800000, special, tl.where(size < 0x38800000, small, normal))
        half |= (own >> 16) & 0x8000
        return half.to(tl.uint16).to(tl.float16, bitcast=True)
