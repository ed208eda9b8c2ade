"""Rules: the sums over a layer -> the coefficients of its step; the equations of `layerpace.rules`, in their order."""

from __future__ import annotations

import triton
import triton.language as tl

from layerpace.engine.backends.triton.kernels.arithmetic import maximum

NO_RULE = tl.constexpr(-1)  # of the user's own, in Python
IDENTITY = tl.constexpr(0)
TRUST_RATIO = tl.constexpr(1)
PERCENT_DELTA = tl.constexpr(2)
RELATIVE_L1 = tl.constexpr(3)
ROTATION = tl.constexpr(4)
LIMITED_NORM = tl.constexpr(5)

TOTAL_NORM = tl.constexpr(0)
SUM_NORM = tl.constexpr(1)
BOUNDS = tl.constexpr(1)
LARC = tl.constexpr(2)


@triton.jit
def phi(ww, n, min_rms):
    """The norm that a step is measured by: `layerpace.rules.Layers.phi`."""
    return maximum(tl.sqrt(ww), min_rms * tl.sqrt(n))


@triton.jit
def trust_ratio(
    ww, uu, wu, n, lr, decay, undecayed, r0, r1, r2, r3, r4, min_rms,
    NORM: tl.constexpr, CLIP: tl.constexpr, ADAPTS_ALL: tl.constexpr, HAS_ZERO: tl.constexpr,
):  # fmt: skip
    """r0, ..., r4: coefficient, eps, the bounds, the ratio of a zero."""
    if NORM == TOTAL_NORM:
        squared = uu + 2.0 * decay * wu + decay * decay * ww
        size = tl.sqrt(tl.where(squared < 0, 0.0, squared))
    elif NORM == SUM_NORM:
        size = tl.sqrt(uu) + decay * tl.sqrt(ww)
    else:
        size = tl.sqrt(uu)
    ratio = tl.where(size + r1 == 0, 1.0, r0 * phi(ww, n, min_rms) / (size + r1))
    if CLIP == BOUNDS:
        ratio = tl.where(ratio < r2, r2, ratio)  # nan stays
        ratio = tl.where(ratio > r3, r3, ratio)
    elif CLIP == LARC:
        ratio = tl.where(ratio < lr, ratio / lr, 1.0)
    if HAS_ZERO:
        still = (size == 0) if NORM == TOTAL_NORM else (uu == 0)
        ratio = tl.where((ww == 0) | still, r4, ratio)
    if not ADAPTS_ALL:
        ratio = tl.where(undecayed, 1.0, ratio)
    return lr * ratio * decay, lr * ratio, ratio


@triton.jit
def percent_delta(ww, over_w, over_floor, n, lr, min_rms):
    total = tl.where(tl.sqrt(ww) < min_rms * tl.sqrt(n), over_floor, over_w)
    ratio = tl.where(total == 0, 0.0, n / total)
    return n * 0.0, lr * ratio, ratio


@triton.jit
def relative_l1(w_l1, u_l1, n, lr, min_rms):
    ratio = tl.where(u_l1 == 0, 0.0, maximum(w_l1, min_rms * n) / u_l1)
    return n * 0.0, lr * ratio, ratio


@triton.jit
def rotation(ww, uu, wu, n, lr, min_rms, initial_norm, parallel):
    p = tl.where(ww == 0, 0.0, wu / ww)
    ss = uu - p * wu
    ratio = phi(ww, n, min_rms) / tl.sqrt(ss)
    k = lr * ratio
    still = (ss <= parallel * uu) | (k == 0)
    q = initial_norm / tl.sqrt(ww + k * k * ss)
    return (
        tl.where(still, 0.0, 1.0 - q * (1.0 + k * p)),
        tl.where(still, 0.0, q * k),
        tl.where(still, 0.0, ratio),
    )


@triton.jit
def limited_norm(ww, uu, wu, n, lr, min_rms, initial_norm, growth):
    size = phi(ww, n, min_rms)
    ratio = tl.where(uu == 0, 0.0, size / tl.sqrt(uu))
    k = lr * ratio
    squared = ww - 2.0 * k * wu + k * k * uu
    norm = tl.sqrt(tl.where(squared < 0, 0.0, squared))
    limit = size + growth * initial_norm
    q = tl.where((k == 0) | (norm <= limit), 1.0, limit / norm)
    return 1.0 - q, q * k, ratio
