"""Tensors without values, on which torch's FakeTensorMode runs a training to learn how much memory it takes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def has_values(tensor: Tensor) -> bool:
    """Whether there are numbers behind it: a fake one says that it is on the CPU, and cannot be read."""
    if type(tensor) in _PLAIN:
        return True
    fake: Any = getattr(sys.modules.get("torch._subclasses.fake_tensor"), "FakeTensor", None)
    return fake is None or not isinstance(getattr(tensor, "_local_tensor", tensor), fake)
