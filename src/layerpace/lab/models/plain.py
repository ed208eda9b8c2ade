"""Stacks of 3x3 convolutions, as the layer rotation paper's code has them.

No biases, and BatchNorm without scale and shift: so only kernels are trained, and the parameters stand in the order of
the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .parts import KERAS_EPS, KERAS_MOMENTUM, bare_conv, bare_norm, halve, halved


class ConvReLUNorm(nn.Sequential):
    """3x3 convolution (He uniform), ReLU, BatchNorm: only a kernel to train."""

    def __init__(self, channels_in: int, channels_out: int, momentum: float, eps: float) -> None:
        conv = bare_conv(channels_in, channels_out)
        nn.init.kaiming_uniform_(conv.weight)
        super().__init__(conv, nn.ReLU(), bare_norm(channels_out, momentum, eps))


class PlainCNN(nn.Module):
    """Stages of convolutions with max-pool 2 between them, a global average pool, a linear layer; He uniform.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        channels: of the convolutions, stage by stage.
        convs: convolutions a stage.
        momentum: share of a batch's statistics in BatchNorm's running ones (1 - Keras' momentum).
        eps: BatchNorm's.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        channels: Sequence[int],
        convs: int,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ConvReLUNorm(before if place == 0 else here, here, momentum, eps) for place in range(convs))
            )
            for before, here in pairwise((input_shape[0], *channels))
        )
        self.dense = nn.Linear(channels[-1], classes, bias=False)
        nn.init.kaiming_uniform_(self.dense.weight)

    def forward(self, x: Tensor) -> Tensor:
        for position, stage in enumerate(self.stages):
            x = stage(halve(x) if position else x)
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]


class C10CNN1(PlainCNN):
    """C10-CNN1: 4 stages of 6 convolutions, 32, 64, 128 and 256 channels; 25 layers."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 32,
        convs: int = 6,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        super().__init__(input_shape, classes, (width, 2 * width, 4 * width, 8 * width), convs, momentum, eps)


class C10CNN1Small(C10CNN1):
    """The code's smaller C10-CNN1: 4 stages of 3 convolutions, 16 to 128 channels; 13 layers.

    Its BatchNorm has torch's momentum 0.1 and eps 1e-5 by default: running statistics that keep 0.99, as Keras has
    them, are still those of the initial weights after the few hundred steps of the short runs that it is for.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 16,
        convs: int = 3,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(input_shape, classes, width, convs, momentum, eps)


class TinyCNN(PlainCNN):
    """tiny-CNN, for Tiny ImageNet: 5 stages of 2 convolutions, 32 to 512 channels; 11 layers. Keras' momentum 0.9."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 32,
        convs: int = 2,
        momentum: float = 0.1,
        eps: float = KERAS_EPS,
    ) -> None:
        channels = tuple(width * 2**stage for stage in range(5))
        super().__init__(input_shape, classes, channels, convs, momentum, eps)


class TorchBlogVGG(nn.Module):
    """C10-CNN2: the torch blog's VGG for CIFAR-10 (Zagoruyko 2015) as the layer rotation code has it.

    Stages of 2, 2, 3, 3 and 3 convolutions of 64, 128, 256, 512 and 512 channels, each followed by BatchNorm and
    ReLU, max-pool 2 after each stage; then linear 512, BatchNorm, ReLU, linear. He normal, no dropout; 15 layers.

    Args:
        width: channels of the first stage; the others and the linear layer go along.
    """

    CONVS = (2, 2, 3, 3, 3)

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 64,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        super().__init__()
        before, height, breadth = input_shape
        self.stages = nn.ModuleList()
        for factor, convs in zip((1, 2, 4, 8, 8), self.CONVS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convs):
                here = factor * width
                layers += [bare_conv(before, here), bare_norm(here, momentum, eps), nn.ReLU()]
                before = here
            self.stages.append(nn.Sequential(*layers))
        pixels = halved(height, len(self.CONVS)) * halved(breadth, len(self.CONVS))
        self.hidden = nn.Linear(before * pixels, 8 * width, bias=False)
        self.norm = nn.BatchNorm1d(8 * width, eps=eps, momentum=momentum, affine=False)
        self.dense = nn.Linear(8 * width, classes, bias=False)
        for parameter in self.parameters():
            nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = halve(stage(x))
        return self.dense(F.relu(self.norm(self.hidden(x.flatten(1)))))  # type: ignore[no-any-return]
