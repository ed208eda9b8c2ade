"""Fully connected networks: one family by width and depth, and the two of the layer rotation experiments."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from ..errors import UsageError
from .parts import KERAS_EPS, KERAS_MOMENTUM, zeros_


class MLP(nn.Sequential):
    """Hidden layers of ReLU units (three of 256 by default), He normal, biases zero.

    Args:
        input_shape: of one example; it is flattened.
        classes: outputs.
        width: units of a hidden layer.
        depth: hidden layers; 0 is a linear model.
        bias: whether layers have one.

    Raises:
        UsageError: width below 1 or depth below 0.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, width: int = 256, depth: int = 3, bias: bool = True
    ) -> None:
        if width < 1 or depth < 0:
            raise UsageError(f"width={width}, depth={depth}: width must be at least 1, depth at least 0")
        sizes = (int(torch.Size(input_shape).numel()), *[width] * depth, classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for position, (inputs, outputs) in enumerate(pairwise(sizes)):
            linear = nn.Linear(inputs, outputs, bias=bias)
            nn.init.kaiming_normal_(linear.weight)
            zeros_(linear.bias)
            layers += [nn.ReLU(), linear] if position else [linear]
        super().__init__(*layers)


class DeepMLP(MLP):
    """Figure 1 of the layer rotation paper: 10 hidden layers of 784 ReLU units, no biases; He normal."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 784, depth: int = 10) -> None:
        super().__init__(input_shape, classes, width, depth, bias=False)


class NormedMLP(nn.Sequential):
    """One hidden layer of 784 units with BatchNorm, the network of the layer rotation code's run on MNIST features.

    Linear, BatchNorm, ReLU, linear, all with biases and scale and shift; Glorot uniform, biases zero. The code took
    BatchNorm "to enable larger layer rotations".
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 784,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        hidden = nn.Linear(int(torch.Size(input_shape).numel()), width)
        dense = nn.Linear(width, classes)
        for linear in (hidden, dense):
            nn.init.xavier_uniform_(linear.weight)
            zeros_(linear.bias)
        super().__init__(nn.Flatten(), hidden, nn.BatchNorm1d(width, eps=eps, momentum=momentum), nn.ReLU(), dense)
