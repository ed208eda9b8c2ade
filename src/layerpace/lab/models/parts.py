"""Pieces that the networks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

KERAS_EPS = 1e-3  # Keras' default of BatchNormalization; torch's is 1e-5
KERAS_MOMENTUM = 0.01  # Keras' default is 0.99, the share that is kept; torch's momentum is the share that is new


def zeros_(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


def bare_norm(channels: int, momentum: float = KERAS_MOMENTUM, eps: float = KERAS_EPS) -> nn.BatchNorm2d:
    """BatchNorm without scale and shift, as all networks of the layer rotation paper's code have it."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum, affine=False)


def bare_conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias; at stride 1 the map keeps its size."""
    return nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)


def halve(x: Tensor) -> Tensor:
    """Max-pool 2; a map of one pixel's width or height stays as it is, so that small images pass deep networks."""
    return x if min(x.shape[2:]) < 2 else F.max_pool2d(x, 2)


def halved(size: int, times: int) -> int:
    """What `halve` leaves of a side of a square map."""
    for _ in range(times):
        size = max(size // 2, 1)
    return size
