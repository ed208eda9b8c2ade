"""The sums over a layer that rules and monitors read: the columns of the table.

Every column is a sum over the entries of a layer. That is what lets a sharded layer be added up over processes
by one all-reduce of the whole table; a column that is not additive has no place here. Sums are float64, whatever
the weights are: the rotation rule subtracts two of them that may agree in their first ten digits.

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

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constants:
    """What the two elementwise quotients need: ``eps`` added to |w|, and the ``floor`` of |w| (an RMS)."""

    eps: float = 0.0
    floor: float = 0.0


def _inner(a_Sn: Tensor, b_Sn: Tensor) -> Tensor:
    if a_Sn.shape[0] == 1:
        return torch.dot(a_Sn[0], b_Sn[0]).reshape(1)
    return (a_Sn * b_Sn).sum(1)


def _quotient(u_Sn: Tensor, size_Sn: Tensor) -> Tensor:
    # 0/0 is a weight that asks for no change: it adds nothing.
    return torch.where(u_Sn == 0, 0.0, u_Sn.abs() / size_Sn).sum(1)


Reduction = Callable[[Tensor, Tensor, Constants], Tensor]

# w and u are float64 [S, n]: S layers of n entries each; the result is [S].
COLUMNS: dict[str, Reduction] = {
    "ww": lambda w, u, k: _inner(w, w),
    "uu": lambda w, u, k: _inner(u, u),
    "wu": lambda w, u, k: _inner(w, u),
    "w_l1": lambda w, u, k: w.abs().sum(1),
    "u_l1": lambda w, u, k: u.abs().sum(1),
    "u_over_w_l1": lambda w, u, k: _quotient(u, w.abs() + k.eps),
    "u_over_floor_l1": lambda w, u, k: _quotient(u, w.abs().clamp(min=k.floor)),
    "nonfinite": lambda w, u, k: (~torch.isfinite(u)).sum(1).to(torch.float64),
}


@dataclass(frozen=True)
class Table:
    """The sums of L layers: ``values`` float64 [L, C], one column a name; ``table["ww"]`` is [L]."""

    values: Tensor
    columns: tuple[str, ...]

    def __getitem__(self, column: str) -> Tensor:
        return self.values[:, self.columns.index(column)]
