"""Noticing in Python whether the tensors of a bucket are what they were, which the compiled module does faster; and
telling autograd that weights were written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# The first byte, and the one behind the last.
Span: TypeAlias = "tuple[int, int]"


def spans(tensors: Iterable[Any]) -> list[Span]:
    """Where tensors lie in memory; those without entries or without an address are left out, and so are others."""
    found = []
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        try:
            begin = tensor.data_ptr()
        except RuntimeError:  # fake, sparse, functional
            continue
        if begin and tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            found.append((begin, begin + (last + 1) * tensor.element_size()))
    return found


class Written:
    """The memory that a step writes, as disjoint spans in their order; written.cpp is the same."""

    def __init__(self, found: Iterable[Span]) -> None:
        self._spans = sorted(found)
        self._ends = [end for _, end in self._spans]

    @property
    def disjoint(self) -> bool:
        """Whether no two of them share memory; else nothing can be asked of them."""
        return all(a[1] <= b[0] for a, b in pairwise(self._spans))

    def touches(self, span: Span) -> bool:
        """Whether any of it lies within a span."""
        at = bisect_right(self._ends, span[0])
        return at < len(self._spans) and self._spans[at][0] < span[1]


class _Description(NamedTuple):
    address: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]


def _describe(tensor: Tensor) -> _Description:
    return _Description(tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride())


class PythonWatch:
    """A `layerpace.engine.backends.protocol.Watch` without the compiled module.

    Args:
        params, grads, states: of the bucket: parameters, their gradients, and the optimizer's state of each.
        names: of the state tensors that are watched.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        names: Sequence[str],
    ) -> None:
        self._params, self._states, self._names = list(params), list(states), list(names)
        self._known = [_describe(param) for param in params]
        self._grads_known = [_describe(grad) for grad in grads]
        self._grads_at = spans(grads)
        self._written: Written | None = None
        self._tensors = [[state[name] for name in names] for state in states]
        self._states_known = [[_describe(tensor) for tensor in tensors] for tensors in self._tensors]
        self._keys = [list(state) for state in states]
        self._grads: list[Tensor] = []

    @staticmethod
    def keep_apart(watches: Sequence[PythonWatch], written: Sequence[Span], read: Sequence[Span]) -> bool:
        """The compiled module's function of that name: see `layerpace.engine.apart.keep_apart`."""
        memory, grads = list(written), list(read)
        for watch in watches:
            memory += spans([*watch._params, *(tensor for tensors in watch._tensors for tensor in tensors)])
            grads += watch._grads_at
        all_of_it = Written(memory)
        if not all_of_it.disjoint or any(all_of_it.touches(span) for span in grads):
            return False
        for watch in watches:
            watch._written = all_of_it
        return True

    def check(self, threads: int = 1) -> bool:
        """See `layerpace.engine.backends.protocol.Watch`."""
        self._grads = []
        for place, (param, known, grad_known) in enumerate(
            zip(self._params, self._known, self._grads_known, strict=True)
        ):
            grad = param.grad
            if grad is None or type(grad) not in (Tensor, torch.nn.Parameter) or grad.is_neg() or grad.is_conj():
                return False
            now = _describe(grad)
            if _describe(param) != known or now[1:] != grad_known[1:]:
                return False
            if now.address != grad_known.address:
                if self._written is not None and any(map(self._written.touches, spans([grad]))):
                    return False
                self._grads_known[place] = now
            self._grads.append(grad)
        rows = zip(self._states, self._keys, self._tensors, self._states_known, strict=True)
        return all(list(state) == keys and self._same(state, tensors, was) for state, keys, tensors, was in rows)

    def _same(self, state: dict[str, Tensor], tensors: list[Tensor], known: list[_Description]) -> bool:
        return all(
            state[name] is tensor and _describe(tensor) == was
            for name, tensor, was in zip(self._names, tensors, known, strict=True)
        )

    def grads(self) -> list[Tensor]:
        """The gradients that ``check`` found."""
        return list(self._grads)

    def release(self) -> None:
        """Let go of those gradients."""
        self._grads = []

    def count(self) -> float:
        """See `layerpace.engine.backends.protocol.Watch`."""
        steps = [state["step"] for state in self._states]
        if any(not step.is_cpu or step.numel() != 1 for step in steps):
            return -1.0
        first = float(steps[0])
        if any(float(step) != first for step in steps):
            return -1.0
        torch._foreach_add_(steps, 1.0)
        return first + 1.0


class WriteCounter:
    """The weights that a bucket's kernels write: autograd notices by itself only what torch writes."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    def note(self) -> None:
        """Count one more write of each."""
        try:
            torch.autograd.graph.increment_version(self._tensors)
        except RuntimeError:  # inference tensors have no version
            self._tensors = [x for x in self._tensors if not x.is_inference()]
            torch.autograd.graph.increment_version(self._tensors)
