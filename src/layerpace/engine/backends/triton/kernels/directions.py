"""Directions: g, state -> u; the equations of `layerpace.directions`, in their order.

``prepare`` turns options and the number of the step into the constants k of the loops, once a layer. ``first`` advances
the moments and returns u; ``again`` makes the same u from what ``first`` left, so that the second pass over a layer
needs no memory for u. Where a denominator is sqrt(v + inside) + outside, one of both is eps and the other zero.
Products stand in an order that loses no number which torch keeps: see native/src/kernels/directions.hpp.

Directions are told apart by the numbers of `layerpace.engine.backends.programs`, known when a kernel is compiled.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.arithmetic import divide, maximum, power, root

SGD = tl.constexpr(0)
HEAVY_BALL = tl.constexpr(1)
NESTEROV = tl.constexpr(2)
EMA_MOMENTUM = tl.constexpr(3)
ADAGRAD = tl.constexpr(4)
ADADELTA = tl.constexpr(5)
RMSPROP = tl.constexpr(6)
RMSPROP_CENTERED = tl.constexpr(7)
RMSPROP_MOMENTUM = tl.constexpr(8)
RMSPROP_CENTERED_MOMENTUM = tl.constexpr(9)
ADAM = tl.constexpr(10)
AMSGRAD = tl.constexpr(11)
ADAMAX = tl.constexpr(12)
NADAM = tl.constexpr(13)
RADAM = tl.constexpr(14)


class Traits(NamedTuple):
    """What the second pass of a direction needs.

    ``reads`` and ``writes`` have a bit for each moment; what is written there is not written by the first pass.
    """

    states: int
    gradient: bool
    reads: int
    writes: int = 0


TRAITS = {
    SGD.value: Traits(0, True, 0),
    HEAVY_BALL.value: Traits(1, False, 1),
    NESTEROV.value: Traits(1, True, 1),
    EMA_MOMENTUM.value: Traits(1, False, 1),
    ADAGRAD.value: Traits(1, True, 1),
    ADADELTA.value: Traits(2, True, 3, 2),  # d, which u is made of, waits for the second pass
    RMSPROP.value: Traits(1, True, 1),
    RMSPROP_CENTERED.value: Traits(2, True, 3),
    RMSPROP_MOMENTUM.value: Traits(2, False, 2),
    RMSPROP_CENTERED_MOMENTUM.value: Traits(3, False, 4),
    ADAM.value: Traits(2, False, 3),
    AMSGRAD.value: Traits(3, False, 5),
    ADAMAX.value: Traits(2, False, 3),
    NADAM.value: Traits(2, True, 3),
    RADAM.value: Traits(2, False, 3),
}


@triton.jit
def prepare(o0, o1, o2, o3, o4, o5, t, product, DIRECTION: tl.constexpr):
    """The constants of the loops of some layers.

    Args:
        o0, ..., o5: float64 [], the options, in the order of `layerpace.engine.backends.programs`.
        t: float64 [layers], the number of the step, 1, 2, ...
        product: float64 [layers], NAdam's product of the momenta so far.

    Returns:
        k0, ..., k7, float64 [layers] each, and the product from now on.
    """
    zero = tl.zeros_like(t)
    one = zero + 1.0
    k0, k1, k2, k3, k4, k5, k6, k7 = zero, zero, zero, zero, zero, zero, zero, zero
    if DIRECTION == HEAVY_BALL:
        whole = (t == 1) & (o1 != 0)  # the first gradient enters whole
        k0 = tl.where(whole, 0.0, zero + o0)
        k1 = tl.where(whole, 1.0, one - o1)
    elif DIRECTION == NESTEROV:
        k0 = zero + o0
    elif DIRECTION == EMA_MOMENTUM:
        k0, k1 = zero + o0, one - o0
    elif DIRECTION == ADAGRAD:
        k0 = tl.where(o2 != 0, zero + o1, zero)
        k1 = tl.where(o2 != 0, zero, zero + o1)
        k2 = 1.0 + (t - 1.0) * o0
    elif DIRECTION == ADADELTA:
        k0, k1, k2 = zero + o0, one - o0, zero + o1
    elif DIRECTION >= RMSPROP and DIRECTION <= RMSPROP_CENTERED_MOMENTUM:
        k0, k1 = zero + o0, one - o0
        k2 = tl.where(o3 != 0, zero + o1, zero)
        k3 = tl.where(o3 != 0, zero, zero + o1)
        k4 = zero + o2
    elif DIRECTION == ADAM or DIRECTION == AMSGRAD:
        k0, k1 = zero + o0, tl.where(o4 != 0, one - o0, one)
        k2, k3 = zero + o1, one - o1
        k4 = tl.where(o3 != 0, 1.0 / (1.0 - power(zero + o0, t)), one)
        of_v = tl.where(o3 != 0, 1.0 - power(zero + o1, t), one)
        k5 = 1.0 / tl.sqrt(of_v)
        k6 = tl.where(o5 != 0, o2 * of_v, zero)
        k7 = tl.where(o5 != 0, zero, zero + o2)
    elif DIRECTION == ADAMAX:
        k0, k1, k2, k3 = zero + o0, one - o0, zero + o1, zero + o2
        k4 = 1.0 / (1.0 - power(zero + o0, t))
    elif DIRECTION == NADAM:
        momentum = o0 * (1.0 - 0.5 * power(zero + 0.96, t * o3))
        following = o0 * (1.0 - 0.5 * power(zero + 0.96, (t + 1.0) * o3))
        product = product * momentum
        k0, k1, k2, k3 = zero + o0, one - o0, zero + o1, one - o1
        k4 = (1.0 - momentum) / (1.0 - product)
        k5 = following / (1.0 - product * following)
        k6 = 1.0 / tl.sqrt(1.0 - power(zero + o1, t))
        k7 = zero + o2
    elif DIRECTION == RADAM:
        decay = power(zero + o1, t)
        end = 2.0 / (1.0 - o1) - 1.0
        rho = end - 2.0 * t * decay / (1.0 - decay)
        adaptive = rho > o3
        r = (rho - 4.0) * (rho - 2.0) * end / ((end - 4.0) * (end - 2.0) * rho)
        rectified = tl.sqrt(tl.where(r < 0, 0.0, r)) * tl.sqrt(1.0 - decay)
        k0, k1, k2, k3 = zero + o0, one - o0, zero + o1, one - o1
        k4 = tl.where(adaptive, rectified, 1.0) / (1.0 - power(zero + o0, t))
        k5 = tl.where(adaptive, 1.0, zero)
        k6 = zero + o2
    return k0, k1, k2, k3, k4, k5, k6, k7, product


@triton.jit
def rate(o0, o1, t):
    """The factor on lr of an Adam whose bias correction comes after the rule."""
    return tl.sqrt(1.0 - power(o1 + tl.zeros_like(t), t)) / (1.0 - power(o0 + tl.zeros_like(t), t))


@triton.jit
def variance(v, a):
    """v - a*a, of which rounding may leave less than nothing, and inf - inf beyond the range."""
    found = v - a * a
    return tl.where(found != found, v, tl.where(found > 0, found, 0.0))


@triton.jit
def first(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION: tl.constexpr):
    """u, and the moments advanced, but for those that ``again`` writes."""
    if DIRECTION == HEAVY_BALL or DIRECTION == EMA_MOMENTUM:
        s0 = s0 * k0 + g * k1
    elif DIRECTION == NESTEROV:
        s0 = s0 * k0 + g
    elif DIRECTION == ADAGRAD:
        s0 = s0 + g * g
    elif DIRECTION == ADADELTA or DIRECTION == RMSPROP:
        s0 = s0 * k0 + g * k1 * g
    elif DIRECTION == RMSPROP_CENTERED:
        s0 = s0 * k0 + g * k1 * g
        s1 = s1 * k0 + g * k1
    elif DIRECTION == RMSPROP_MOMENTUM:
        s0 = s0 * k0 + g * k1 * g
        s1 = s1 * k4 + divide(g, root(s0 + k2) + k3)
    elif DIRECTION == RMSPROP_CENTERED_MOMENTUM:
        s0 = s0 * k0 + g * k1 * g
        s1 = s1 * k0 + g * k1
        s2 = s2 * k4 + divide(g, root(variance(s0, s1) + k2) + k3)
    elif (DIRECTION == ADAM or DIRECTION == NADAM) or DIRECTION == RADAM:
        s0 = s0 * k0 + g * k1
        s1 = s1 * k2 + g * k3 * g
    elif DIRECTION == AMSGRAD:
        s0 = s0 * k0 + g * k1
        s1 = s1 * k2 + g * k3 * g
        s2 = maximum(s2, s1)
    elif DIRECTION == ADAMAX:
        s0 = s0 * k0 + g * k1
        s1 = maximum(s1 * k2, tl.abs(g) + k3)
    u, _0, _1, _2 = again(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION)
    return u, s0, s1, s2


@triton.jit
def again(g, s0, s1, s2, k0, k1, k2, k3, k4, k5, k6, k7, DIRECTION: tl.constexpr):
    """u from the moments that ``first`` left, and those that it did not write, advanced."""
    if DIRECTION == SGD:
        u = g
    elif DIRECTION == HEAVY_BALL or DIRECTION == EMA_MOMENTUM:
        u = s0
    elif DIRECTION == NESTEROV:
        u = s0 * k0 + g
    elif DIRECTION == ADAGRAD:
        u = divide(divide(g, root(s0 + k0) + k1), k2 + tl.zeros_like(g))
    elif DIRECTION == ADADELTA:
        u = divide(root(s1 + k2), root(s0 + k2)) * g
        s1 = s1 * k0 + u * k1 * u
    elif DIRECTION == RMSPROP:
        u = divide(g, root(s0 + k2) + k3)
    elif DIRECTION == RMSPROP_CENTERED:
        u = divide(g, root(variance(s0, s1) + k2) + k3)
    elif DIRECTION == RMSPROP_MOMENTUM:
        u = s1
    elif DIRECTION == RMSPROP_CENTERED_MOMENTUM:
        u = s2
    elif DIRECTION == ADAM:
        u = divide(s0, root(s1 + k6) * k5 + k7) * k4
    elif DIRECTION == AMSGRAD:
        u = divide(s0, root(s2 + k6) * k5 + k7) * k4
    elif DIRECTION == ADAMAX:
        u = divide(s0 * k4, s1)
    elif DIRECTION == NADAM:
        u = divide(g * k4 + s0 * k5, root(s1) * k6 + k7)
    else:
        tl.static_assert(DIRECTION == RADAM)
        u = s0 * k4
        u = tl.where(k5 == 0, u, divide(u, root(s1) + k6))
    return u, s0, s1, s2
