"""Noticing in Python whether the tensors of a bucket are what they were; the compiled module does it faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class _Description(NamedTuple):
    address: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]


def _describe(tensor: Tensor) -> _Description:
    return _Description(tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride())


class PythonWatch:
    """A `layerpace.backends.protocol.Watch` without the compiled module.

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
        self._grads_known = [_describe(grad)[1:] for grad in grads]
        self._tensors = [[state[name] for name in names] for state in states]
        self._states_known = [[_describe(tensor) for tensor in tensors] for tensors in self._tensors]
        self._keys = [list(state) for state in states]
        self._grads: list[Tensor] = []

    def check(self, threads: int = 1) -> bool:
        """See `layerpace.backends.protocol.Watch`."""
        self._grads = []
        for param, known, grad_known in zip(self._params, self._known, self._grads_known, strict=True):
            grad = param.grad
            if grad is None or type(grad) not in (Tensor, torch.nn.Parameter) or grad.is_neg() or grad.is_conj():
                return False
            if _describe(param) != known or _describe(grad)[1:] != grad_known:
                return False
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
        """See `layerpace.backends.protocol.Watch`."""
        steps = [state["step"] for state in self._states]
        if any(not step.is_cpu or step.numel() != 1 for step in steps):
            return -1.0
        first = float(steps[0])
        if any(float(step) != first for step in steps):
            return -1.0
        torch._foreach_add_(steps, 1.0)
        return first + 1.0
