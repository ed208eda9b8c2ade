"""Parameters -> layers: names, segments, exclusion, and multipliers of the learning rate.

A layer is what gets one row of the table: by default one tensor. It can be finer: ``segments`` cuts a tensor along
dimension 0 into layers of their own (the three parts of a fused QKV matrix, stacked experts, an embedding's rows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

Exclude: TypeAlias = None | bool | str | Sequence[str] | Callable[[str, Tensor], bool]
Segments: TypeAlias = int | str | Sequence[int]


@dataclass(frozen=True)
class ParameterLayers:
    """How one parameter is cut into layers.

    Attributes:
        name: of the parameter; where none is known, its place among the groups.
        excluded: neither the layer rule nor weight decay applies.
        sizes: rows of dimension 0 in each layer; None: the tensor is one layer.
        shape: of the parameter that was described; None: it had none yet (a lazy module's).
        said: the ``exclude`` and ``segments`` that it was described by.
    """

    name: str
    excluded: bool = False
    sizes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = field(default=None, compare=False)
    said: tuple[Exclude, Mapping[str, Segments] | Segments | None] | None = field(
        default=None, compare=False, repr=False
    )

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterLayers:
        return self

    def __reduce__(self) -> Any:
        # A predicate or a sequence of the user's may refuse to be pickled, and what it said is known.
        return type(self), (self.name, self.excluded, self.sizes, self.shape)

    def describes(self, param: Tensor) -> bool:
        """Whether the parameter still has the shape that it was described with."""
        return self.shape == known_shape(param)

    @property
    def count(self) -> int:
        return 1 if self.sizes is None else len(self.sizes)

    def broadcast_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what is one number a layer and broadcasts over a tensor of ``shape``."""
        return () if self.sizes is None else (shape[0], *[1] * (len(shape) - 1))

    def memory(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """A rule's numbers before the first step: float64 [layers].

        Never of shape (): torch.distributed.checkpoint cannot load the whole state of an optimizer that has no more.
        """
        return {name: torch.zeros(self.count, dtype=torch.float64, device=device) for name in names}

    @property
    def layer_names(self) -> list[str]:
        return [self.name] if self.sizes is None else [f"{self.name}[{k}]" for k in range(len(self.sizes))]

    def entries(self, shape: Sequence[int]) -> list[int]:
        """Number of entries of each layer, for a parameter of that shape."""
        row = 1
        for size in shape[1:]:
            row *= size
        if self.sizes is None:
            return [row * (shape[0] if len(shape) else 1)]
        return [size * row for size in self.sizes]


def known_shape(param: Tensor) -> tuple[int, ...] | None:
    """The shape of a parameter; None: a lazy module has still to give it one."""
    return None if is_lazy(param) else tuple(param.shape)


def is_lazy(param: Any) -> bool:
    """Whether the parameter gets its shape in the first forward pass of its module (``nn.LazyLinear``)."""
    return isinstance(param, (UninitializedParameter, UninitializedBuffer))
