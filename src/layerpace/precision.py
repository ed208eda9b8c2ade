"""Weights in half precision: how they make progress under steps smaller than their resolution.

A bfloat16 number has 8 significant bits: a step below 1/512 of a weight is lost when it is rounded. ``master``
keeps a float32 copy of the weights in the optimizer's state; ``stochastic`` rounds up or down at random with the
probabilities that make the mean right (4 bytes a parameter less); ``plain`` rounds to nearest, and loses.
"""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("master", "stochastic", "plain")

_MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
_LOWEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of moments and arithmetic: float64 for float64 and complex128, else float32."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


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
    _, exponent = torch.frexp(x)  # x = m * 2^exponent with 0.5 <= |m| < 1
    ulp = (exponent - 1).clamp(min=_LOWEST_EXPONENT[dtype]) - _MANTISSA_BITS[dtype]
    # Scaling by a power of two is exact; two halves of it, since 2^149 overflows float32.
    half = -ulp // 2
    steps = torch.ldexp(torch.ldexp(x, half), -ulp - half)
    down = torch.floor(steps)
    rest = steps - down  # exact; adding the random number to `steps` would round up now and then
    rounded = down + (torch.rand_like(steps) < rest)
    back = torch.ldexp(torch.ldexp(rounded, -half), ulp + half)
    return torch.where(rest > 0, back, x).to(dtype)
