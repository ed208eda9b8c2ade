"""Weights and moments in half precision: how they make progress under steps smaller than their resolution.

A bfloat16 number has 8 significant bits: a step below 1/512 of a weight is lost when it is rounded. ``master``
keeps a float32 copy of the weights in the optimizer's state; ``stochastic`` rounds up or down at random with the
probabilities that make the mean right (4 bytes a parameter less); ``plain`` rounds to nearest, and loses.

The same rounding keeps moments in bfloat16 (``state_dtype``): an average that moves by 0.1% a step would stand still
under rounding to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("master", "stochastic", "plain")
STATE_DTYPES = ("fp32", "bf16")
SEED = "rounding_seed"  # in the state of a parameter: of the random numbers that its kernels round by


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: float64 for float64 and complex128, else float32."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def moment_dtype(dtype: torch.dtype, state_dtype: str) -> torch.dtype:
    """The dtype that moments and the velocity of a parameter are kept in.

    Args:
        dtype: the parameter's.
        state_dtype: one of `STATE_DTYPES`; "bf16" halves what would be float32, and leaves float64 alone.
    """
    working = compute_dtype(dtype)
    return torch.bfloat16 if state_dtype == "bf16" and working == torch.float32 else working


def working_copy(param: Tensor, state: dict[str, Tensor], mode: str) -> Tensor:
    """The weights to compute with: the parameter itself in full precision, else float32.

    The master copy follows writes from outside: where the parameter is no longer its rounding, as after
    ``model.load_state_dict``, the parameter counts.
    """
    dtype = compute_dtype(param.dtype)
    if param.dtype == dtype:
        return param
    w = param.to(dtype)
    if mode != "master":
        return w
    if "master" not in state:
        state["master"] = w
        return w
    master = state["master"]
    return master.copy_(torch.where(master.to(param.dtype) == param, master, w))


def store(param: Tensor, w: Tensor, mode: str) -> None:
    """Write the computed weights back to the parameter."""
    if param is not w:
        param.copy_(round_stochastically(w, param.dtype) if mode == "stochastic" else w)


def round_stochastically(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 to a neighbour in bfloat16 or float16, so that the mean is x.

    A number that the dtype has stays as it is; inf and nan too. Random bits come from torch's default generator
    of the device, so that ``torch.manual_seed`` repeats them.
    """
    return _to_bfloat16(x) if dtype == torch.bfloat16 else _to_float16(x)


def _to_bfloat16(x: Tensor) -> Tensor:
    """A bfloat16 is the upper half of a float32: a random lower half is added, and its carry decides."""
    bits = x.view(torch.int32)
    rounded = torch.empty_like(bits).random_(1 << 16).add_(bits).bitwise_and_(-1 << 16).view(torch.float32)
    return torch.where(x.isnan(), x, rounded).to(torch.bfloat16)  # the carry would run into the sign of a nan


def _to_float16(x: Tensor) -> Tensor:
    """Whole numbers of units in the last place, rounded up with the probability of what is left."""
    _, exponent = torch.frexp(x)  # x = m * 2^exponent with 0.5 <= |m| < 1
    ulp = (exponent - 1).clamp(min=-14) - 10
    # Scaling by a power of two is exact; two halves of it, since 2^149 overflows float32.
    half = -ulp // 2
    steps = torch.ldexp(torch.ldexp(x, half), -ulp - half)
    down = torch.floor(steps)
    rest = steps - down  # exact; adding the random number to `steps` would round up now and then
    rounded = down + (torch.rand_like(steps) < rest)
    back = torch.ldexp(torch.ldexp(rounded, -half), ulp + half)
    return torch.where(rest > 0, back, x).to(torch.float16)
