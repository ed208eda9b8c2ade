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
from typing import TypeAlias

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


Column: TypeAlias = Callable[[Operands], Tensor]


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
COLUMNS: dict[str, Column] = {
    "ww": lambda x: _inner(x.wide_w, x.wide_w),
    "uu": lambda x: _inner(x.wide_u, x.wide_u),
    "wu": lambda x: _inner(x.wide_w, x.wide_u),
    "w_l1": lambda x: _l1(x.w),
    "u_l1": lambda x: _l1(x.u),
    "u_over_w_l1": lambda x: _quotient(x.u, x.w.abs().add_(x.constants.eps), x.constants.eps),
    "u_over_floor_l1": lambda x: _quotient(x.u, x.w.abs().clamp_(min=x.constants.floor), x.constants.floor),
    "nonfinite": lambda x: (~torch.isfinite(x.u)).sum(1).to(torch.float64),
}


def register(name: str) -> Callable[[Column], Column]:
    """Make a sum known as a column, so that a rule may name it in ``columns``.

    A decorator for a function of `Operands` that returns the sum of each layer, float64 [S]. It must be additive over
    the entries of a layer, since a sharded layer is added up over processes: a trial on small numbers tells. Rules
    that read it run on the reference backend. A function that is defined again takes the place of the former one.

    Args:
        name: of the column, an identifier that no other one has.

    Raises:
        TypeError: not a function.
        ValueError: a name that is taken or no identifier; a result that is not float64 [S], or not additive.

    Example:
        >>> import torch, layerpace as lp
        >>> @lp.columns.register("u_l4")
        ... def fourth_powers(x):
        ...     return (x.wide_u**4).sum(1)
        >>> "u_l4" in lp.columns.COLUMNS
        True
    """

    def put(column: Column) -> Column:
        known = COLUMNS.get(name)
        if known is not None and _place(known) != _place(column):
            raise ValueError(f"the column {name!r} is {_place(known)} already; {_place(column)} needs another name")
        check_additive(name, column)
        COLUMNS[name] = column
        return column

    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"a column's name must be an identifier, got {name!r}")
    return put


def check_additive(name: str, column: Column) -> None:
    """Raise unless a column is the sum of its parts, float64 [S], on a trial of numbers large and small."""
    if not callable(column):
        raise TypeError(f"the column {name!r} must be a function of Operands, got {column!r}")
    generator = torch.Generator("cpu").manual_seed(0)
    w, u = (torch.randn(2, 3000, generator=generator, dtype=torch.float64, device="cpu") for _ in range(2))
    constants = Constants(eps=1e-8, floor=1e-3)
    for scale in (1.0, 1e4):
        pieces = [(w[:, a:b] * scale, u[:, a:b] * scale) for a, b in ((0, 3000), (0, 1), (1, 1200), (1200, 3000))]
        whole, *parts = (column(Operands(*piece, constants)) for piece in pieces)
        if not isinstance(whole, Tensor) or whole.shape != (2,) or whole.dtype != torch.float64:
            got = f"{tuple(whole.shape)} {whole.dtype}" if isinstance(whole, Tensor) else repr(whole)
            raise ValueError(f"the column {name!r} must return the sums of S layers, float64 [S]; of two it gave {got}")
        if not torch.allclose(torch.stack(parts).sum(0), whole, rtol=1e-9, atol=1e-12):
            raise ValueError(
                f"the column {name!r} is not additive: of two layers it gave {whole.tolist()}, and of their parts sums "
                f"of {torch.stack(parts).sum(0).tolist()}; a sharded layer could not be added up"
            )


def _place(column: Column) -> str:
    return f"{column.__module__}.{getattr(column, '__qualname__', repr(column))}"


# <w, w>, sum |w|, <g, g>, <d, d>, <w, d>, sum |d|; w before the step.
MEASURED = ("ww", "w_l1", "gg", "dd", "wd", "d_l1")


@dataclass(frozen=True)
class Table:
    """The sums of L layers: ``values`` float64 [L, C], one column a name; ``table["ww"]`` is [L]."""

    values: Tensor
    columns: tuple[str, ...]

    def __getitem__(self, column: str) -> Tensor:
        return self.values[:, self.columns.index(column)]
