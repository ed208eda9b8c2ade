"""Arithmetic over a list of tensors, so that an equation written once runs on a whole bucket of layers.

``Tensors([a, b]) * 2`` is ``[a * 2, b * 2]``, by one ``torch._foreach_mul`` where that is a single kernel.
The other operand is a number, or ``Tensors`` of the same length whose entries broadcast: a 0-d tensor for each
parameter, or one of shape (rows, 1, ...) where segments of a parameter differ. In +, -, * and / entries of another
dtype are cast to the left operand's, so that a float64 scalar never promotes a float32 weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = "float | Tensors"


class Tensors:
    """A non-empty list of tensors of one dtype, with elementwise arithmetic; ``x_`` methods work in place.

    What a direction is written with: +, -, *, /, ** (of numbers, or a number as the exponent), comparisons, which give
    bool `Tensors`, and the methods below, named as torch names them. ``items`` are the tensors.

    Example:
        >>> import torch, layerpace as lp
        >>> m, g = lp.Tensors([torch.tensor([1.0, -2.0])]), lp.Tensors([torch.tensor([3.0, 4.0])])
        >>> agrees = m * g > 0
        >>> (m.sign() * 0.5).where(agrees, 0.0).items
        [tensor([0.5000, 0.0000])]
    """

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Tensor]) -> None:
        self.items: list[Tensor] = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.items)

    @property
    def dtype(self) -> torch.dtype:
        return self.items[0].dtype

    def to(self, dtype: torch.dtype) -> Tensors:
        """The same tensors where the dtype fits, else copies."""
        return self if self.dtype == dtype else Tensors([x.to(dtype) for x in self.items])

    def clone(self) -> Tensors:
        return Tensors([x.clone() for x in self.items])

    def _operand(self, other: Scalar) -> Any:
        return other.to(self.dtype).items if isinstance(other, Tensors) else other

    def __add__(self, other: Scalar) -> Tensors:
        return Tensors(torch._foreach_add(self.items, self._operand(other)))

    def __sub__(self, other: Scalar) -> Tensors:
        return Tensors(torch._foreach_sub(self.items, self._operand(other)))

    def __mul__(self, other: Scalar) -> Tensors:
        return Tensors(torch._foreach_mul(self.items, self._operand(other)))

    def __truediv__(self, other: Scalar) -> Tensors:
        return Tensors(torch._foreach_div(self.items, self._operand(other)))

    def __neg__(self) -> Tensors:
        return Tensors(torch._foreach_neg(self.items))

    def __radd__(self, other: float) -> Tensors:
        return self + other

    def __rmul__(self, other: float) -> Tensors:
        return self * other

    def __rsub__(self, other: float) -> Tensors:
        return (-self).add_(other)

    def __rtruediv__(self, other: float) -> Tensors:
        return Tensors(torch._foreach_reciprocal(self.items)).mul_(other)

    def __rpow__(self, base: float) -> Tensors:
        return Tensors(torch._foreach_pow(base, self.items))

    def __pow__(self, exponent: float) -> Tensors:
        return Tensors(torch._foreach_pow(self.items, exponent))

    def _compared(self, other: Scalar, compare: Callable[[Any, Any], Tensor]) -> Tensors:
        others = other.items if isinstance(other, Tensors) else [other] * len(self)
        return Tensors([compare(x, y) for x, y in zip(self.items, others, strict=True)])

    def __gt__(self, other: Scalar) -> Tensors:
        return self._compared(other, torch.gt)

    def __ge__(self, other: Scalar) -> Tensors:
        return self._compared(other, torch.ge)

    def __lt__(self, other: Scalar) -> Tensors:
        return self._compared(other, torch.lt)

    def __le__(self, other: Scalar) -> Tensors:
        return self._compared(other, torch.le)

    def where(self, condition: Tensors, other: Scalar) -> Tensors:
        """These entries where the condition (bool, broadcasting) holds, else those of ``other``."""
        others = self._operand(other) if isinstance(other, Tensors) else [other] * len(self)
        return Tensors([torch.where(c, x, y) for c, x, y in zip(condition, self.items, others, strict=True)])

    def maximum(self, other: Scalar) -> Tensors:
        """max(x, other); nan stays."""
        if not isinstance(other, Tensors):
            return Tensors(torch._foreach_clamp_min(self.items, other))
        return self._compared(other.to(self.dtype), torch.maximum)

    def minimum(self, other: Scalar) -> Tensors:
        """min(x, other); nan stays."""
        if not isinstance(other, Tensors):
            return Tensors(torch._foreach_clamp_max(self.items, other))
        return self._compared(other.to(self.dtype), torch.minimum)

    def sqrt(self) -> Tensors:
        return Tensors(torch._foreach_sqrt(self.items))

    def abs(self) -> Tensors:
        return Tensors(torch._foreach_abs(self.items))

    def sign(self) -> Tensors:
        """-1, 0 or 1."""
        return Tensors(torch._foreach_sign(self.items))

    def exp(self) -> Tensors:
        return Tensors(torch._foreach_exp(self.items))

    def log(self) -> Tensors:
        """The natural logarithm."""
        return Tensors(torch._foreach_log(self.items))

    def tanh(self) -> Tensors:
        return Tensors(torch._foreach_tanh(self.items))

    def add_(self, other: Scalar) -> Tensors:
        torch._foreach_add_(self.items, self._operand(other))
        return self

    def sub_(self, other: Scalar) -> Tensors:
        torch._foreach_sub_(self.items, self._operand(other))
        return self

    def mul_(self, other: Scalar) -> Tensors:
        torch._foreach_mul_(self.items, self._operand(other))
        return self

    def div_(self, other: Scalar) -> Tensors:
        torch._foreach_div_(self.items, self._operand(other))
        return self

    def sqrt_(self) -> Tensors:
        torch._foreach_sqrt_(self.items)
        return self

    def lerp_(self, end: Tensors, weight: float) -> Tensors:
        """x <- x + weight*(end - x)."""
        torch._foreach_lerp_(self.items, end.items, weight)
        return self

    def addcmul_(self, a: Tensors, b: Tensors, value: float = 1.0) -> Tensors:
        """x <- x + value*a*b."""
        torch._foreach_addcmul_(self.items, a.items, b.items, value)
        return self

    def maximum_(self, other: Tensors) -> Tensors:
        torch._foreach_maximum_(self.items, other.items)
        return self

    def clamp_min_(self, least: float) -> Tensors:
        """x <- max(x, least); nan stays."""
        torch._foreach_clamp_min_(self.items, least)
        return self

    def copy_(self, other: Tensors) -> Tensors:
        torch._foreach_copy_(self.items, other.items)
        return self


def positive_root(x: Scalar) -> Scalar:
    """sqrt(max(x, 0)), of a number or of tensors."""
    if isinstance(x, Tensors):
        return Tensors(torch._foreach_clamp_min(x.items, 0.0)).sqrt_()
    return math.sqrt(max(x, 0.0))


def choose(x: Scalar, above: float, yes: Callable[[], Tensors], no: Callable[[], Tensors]) -> Tensors:
    """``yes()`` where x > above, else ``no()``: a host branch for a number, an elementwise choice for tensors."""
    if isinstance(x, Tensors):
        return Tensors([torch.where(s > above, a, b) for s, a, b in zip(x, yes(), no(), strict=True)])
    return yes() if x > above else no()


def keep_where(ok: Tensors, new: Tensors, old: Tensors) -> None:
    """Put ``old`` back into ``new``, in place, where ``ok`` (bool, broadcasting) is False."""
    for flag, x, y in zip(ok, new, old, strict=True):
        torch.where(flag, x, y, out=x) if x.is_contiguous() else x.copy_(torch.where(flag, x, y))
