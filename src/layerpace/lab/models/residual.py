"""Residual networks: the CIFAR ResNets and the Wide ResNet of the layer rotation paper, and LAMBC's ResNet-18.

Parameters stand in the order of the forward pass, a block's projection after its convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .parts import KERAS_EPS, KERAS_MOMENTUM, bare_conv, bare_norm


def shapes(channels: Sequence[int], blocks: int) -> Iterator[tuple[int, int, int]]:
    """(channels in, channels out, stride) of every block, stage after stage; each stage but the first halves the image.

    Args:
        channels: of the stem, and of each stage.
        blocks: of a stage.
    """
    for stage, (before, here) in enumerate(pairwise(channels)):
        yield before, here, 2 if stage else 1
        yield from [(here, here, 1)] * (blocks - 1)


class BareBlock(nn.Module):
    """Convolution, BatchNorm, ReLU, convolution, BatchNorm, plus the shortcut, ReLU: only kernels.

    Where the shape changes the shortcut is a 1x1 convolution of the same stride, without BatchNorm.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, momentum: float, eps: float) -> None:
        super().__init__()
        self.conv1 = bare_conv(channels_in, channels, stride=stride)
        self.norm1 = bare_norm(channels, momentum, eps)
        self.conv2 = bare_conv(channels, channels)
        self.norm2 = bare_norm(channels, momentum, eps)
        changes = stride != 1 or channels_in != channels
        self.projection = bare_conv(channels_in, channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.projection(x))


class CifarResNet(nn.Module):
    """ResNet v1 for CIFAR (He et al. 2016, 4.2) as the layer rotation code has it: only kernels, He normal.

    A convolution of 16 channels, 3 stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels, the first block of
    the second and third stage with stride 2, a global average pool, a linear layer.

    Args:
        depth: 6n + 2 layers: 20, 32, 44, 56, 110.
        width: channels of the first stage.
        momentum, eps: of BatchNorm; momentum is 1 - Keras'.

    Raises:
        UsageError: another depth.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        depth: int = 32,
        width: int = 16,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"depth {depth}: must be 6n + 2, such as 20, 32, 44 or 110")
        self.stem = bare_conv(input_shape[0], width)
        self.norm = bare_norm(width, momentum, eps)
        self.blocks = nn.Sequential(
            *(
                BareBlock(*shape, momentum, eps)
                for shape in shapes((width, width, 2 * width, 4 * width), (depth - 2) // 6)
            )
        )
        self.dense = nn.Linear(4 * width, classes, bias=False)
        for parameter in self.parameters():
            nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    """BatchNorm, ReLU, convolution, BatchNorm, ReLU, dropout, convolution, plus the shortcut: only kernels."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, dropout: float, momentum: float, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = bare_norm(channels_in, momentum, eps)
        self.conv1 = bare_conv(channels_in, channels, stride=stride)
        self.norm2 = bare_norm(channels, momentum, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = bare_conv(channels, channels)
        changes = stride != 1 or channels_in != channels
        self.projection = bare_conv(channels_in, channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(self.dropout(F.relu(self.norm2(y))))
        return y + self.projection(x)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WRN-28-10 with dropout 0.3 (Zagoruyko & Komodakis 2016) as the layer rotation code has it: only kernels.

    A convolution of 16 channels, 3 stages of (depth - 4) / 6 blocks with 160, 320 and 640 channels, BatchNorm, ReLU, a
    global average pool, a linear layer. The shortcut projects the block's own input, before BatchNorm. Glorot uniform.

    Args:
        depth: 6n + 4.
        widen: channels are 16, 32 and 64 times this.
        dropout: between the two convolutions of a block.
        momentum, eps: of BatchNorm; momentum is 1 - Keras'.

    Raises:
        UsageError: another depth.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        depth: int = 28,
        widen: int = 10,
        dropout: float = 0.3,
        momentum: float = KERAS_MOMENTUM,
        eps: float = KERAS_EPS,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UsageError(f"depth {depth}: must be 6n + 4, such as 16, 22, 28 or 40")
        self.stem = bare_conv(input_shape[0], 16)
        self.blocks = nn.Sequential(
            *(
                WideBlock(*shape, dropout, momentum, eps)
                for shape in shapes((16, 16 * widen, 32 * widen, 64 * widen), (depth - 4) // 6)
            )
        )
        self.norm = bare_norm(64 * widen, momentum, eps)
        self.dense = nn.Linear(64 * widen, classes, bias=False)
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """As `BareBlock`, but BatchNorm has scale and shift, and the projection has a BatchNorm of its own."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = bare_conv(channels_in, channels, stride=stride)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = bare_conv(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels)
        changes = stride != 1 or channels_in != channels
        self.projection = (
            nn.Sequential(bare_conv(channels_in, channels, 1, stride), nn.BatchNorm2d(channels))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.projection(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) for small images, the network of the LAMBC experiments.

    A 3x3 convolution instead of the 7x7 one and no max-pool at the start; 4 stages of 2 blocks, 64 to 512 channels, a
    global average pool, a linear layer with bias. Convolutions have none; BatchNorm has scale and shift. torch's own
    initialisation, which is not He's.

    Args:
        width: channels of the first stage; 16 is a narrow one for a few CPU cores.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = bare_conv(input_shape[0], width)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            *(BasicBlock(*shape) for shape in shapes((width, width, 2 * width, 4 * width, 8 * width), 2))
        )
        self.dense = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]
