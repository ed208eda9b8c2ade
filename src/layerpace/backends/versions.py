"""Telling autograd that weights were written, which notices by itself only what torch writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Written:
    """The weights that a bucket's kernels write."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    def note(self) -> None:
        """Count one more write of each."""
        try:
            torch.autograd.graph.increment_version(self._tensors)
        except RuntimeError:  # inference tensors have no version
            self._tensors = [x for x in self._tensors if not x.is_inference()]
            torch.autograd.graph.increment_version(self._tensors)
