"""The sums over a layer that rules and monitors read: the columns of the table.

Every column is a sum over the entries of a layer. That is what lets a sharded layer be added up over processes
by one all-reduce of the whole table; a column that is not additive has no place here. Sums are float64, whatever
the weights are: the rotation rule subtracts two of them that may agree in their first ten digits.

Monitors have sums of their own, `MEASURED`, which a step adds up as it goes when it is asked to. d is there what was
subtracted from the weights in memory, through whatever velocity and rounding, and g the gradient before weight decay.

========================  =========================================================================
``ww``                    <w, w>
``uu``                    <u, u>
``wu``                    <w, u>
``w_l1``                  sum |w|
``u_l1``                  sum |u|
``u_over_w_l1``           sum |u / (w + eps*sign(w))|, which is sum |u| / (|w| + eps)
``u_over_floor_l1``       sum |u| / max(|w|, floor)
``nonfinite``             number of entries of u that are inf or nan
========================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constants:
    """What the two elementwise quotients need: ``eps`` added to |w|, and the ``floor`` of |w| (an RMS)."""

    eps: float = 0.0
    floor: float = 0.0


class Operands:
    """w and u of S layers, [S, n] in the dtype of the computation; float64 copies are made once, when asked for."""

    def __init__(self, w_Sn: Tensor, u_Sn: Tensor, constants: Constants) -> None:
        self.w, self.u, self.constants = w_Sn, u_Sn, constants

    @cached_property
    def wide_w(self) -> Tensor:
        return self.w.double()

    @cached_property
    def wide_u(self) -> Tensor:
        return self.u.double()


def _inner(a_Sn: Tensor, b_Sn: Tensor) -> Tensor:
    if a_Sn.shape[0] == 1:
        return torch.dot(a_Sn[0], b_Sn[0]).reshape(1)
    return (a_Sn * b_Sn).sum(1)


def _l1(x_Sn: Tensor) -> Tensor:
    # Terms of one sign: their float64 sum is as good as the terms, and no float64 copy of them is needed.
    total: Tensor = torch.linalg.vector_norm(x_Sn, 1, dim=1, dtype=torch.float64)
    return total


def _quotient(u_Sn: Tensor, size_Sn: Tensor, smallest: float) -> Tensor:
    quotient = u_Sn / size_Sn
    if smallest < torch.finfo(u_Sn.dtype).tiny:
        # 0/0 is a weight of zero that asks for no change: it adds nothing.
        quotient = torch.where(u_Sn == 0, 0.0, quotient)
    return _l1(quotient)


# The result is float64 [S].
COLUMNS: dict[str, Callable[[Operands], Tensor]] = {
    "ww": lambda x: _inner(x.wide_w, x.wide_w),
    "uu": lambda x: _inner(x.wide_u, x.wide_u),
    "wu": lambda x: _inner(x.wide_w, x.wide_u),
    "w_l1": lambda x: _l1(x.w),
    "u_l1": lambda x: _l1(x.u),
    "u_over_w_l1": lambda x: _quotient(x.u, x.w.abs().add_(x.constants.eps), x.constants.eps),
    "u_over_floor_l1": lambda x: _quotient(x.u, x.w.abs().clamp_(min=x.constants.floor), x.constants.floor),
    "nonfinite": lambda x: (~torch.isfinite(x.u)).sum(1).to(torch.float64),
}


# <w, w>, sum |w|, <g, g>, <d, d>, <w, d>, sum |d|; w before the step.
MEASURED = ("ww", "w_l1", "gg", "dd", "wd", "d_l1")


@dataclass(frozen=True)
class Table:
    """The sums of L layers: ``values`` float64 [L, C], one column a name; ``table["ww"]`` is [L]."""

    values: Tensor
    columns: tuple[str, ...]

    def __getitem__(self, column: str) -> Tensor:
        return self.values[:, self.columns.index(column)]
