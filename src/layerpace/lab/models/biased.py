"""The two networks with biases: digits-cnn, badly scaled on purpose, and the PercentDelta paper's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import zeros_

# Factors on the weights of digits-cnn, layer by layer. Their product is 1: see DigitsCNN.
DIGITS_SCALES = (8.0, 1 / 8, 8.0, 1 / 32, 4.0)


class DigitsCNN(nn.Module):
    """A small CNN whose layers are badly scaled on purpose, as real ones are by accident.

    Three 3x3 convolutions (16, 32, 32 channels; max-pool 2 after the second and third) and two linear
    layers (64 units). Layer i starts as He's initialisation times `scales[i]`, biases zero. The scales
    multiply to 1 and ReLU is homogeneous, so the initial *function* is exactly the well-scaled network's;
    but with SGD the relative update of layer i goes as 1 / scales[i]**2, here a spread of 65,536 between
    layers. A rate that suits one layer is far too low or too high for another; SGD's best rate is 300
    times lower than on the well-scaled network, where a layer-wise method's stays as it is.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, scales: tuple[float, ...] = DIGITS_SCALES) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * (height // 4) * (width // 4), 64)
        self.fc2 = nn.Linear(64, classes)
        layers: list[nn.Conv2d | nn.Linear] = [self.conv1, self.conv2, self.conv3, self.fc1, self.fc2]
        for layer, scale in zip(layers, scales, strict=True):
            nn.init.kaiming_normal_(layer.weight)
            zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(F.max_pool2d(self.conv3(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


class HalfDropout(nn.Module):
    """Dropout with p = 0.5, its mask taken from random *bits*.

    torch's dropout on a CPU draws one random number an entry, which at batch 500 takes as long as a
    matrix product; a 32-bit draw holds 32 fair coins.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, 0.5)
        words = torch.empty((x.numel() + 31) // 32, 1, dtype=torch.int32, device="cpu").random_(-(2**31), 2**31)
        coins = (words >> torch.arange(32, dtype=torch.int32, device="cpu")) & 1
        keep = coins.flatten()[: x.numel()].view(x.shape).to(x.dtype)
        return x * keep * 2.0


class PercentDeltaCNN(nn.Module):
    """The MNIST network of the PercentDelta paper, which is the TensorFlow tutorial's.

    Convolution 5x5x32, max-pool 2, convolution 5x5x64, max-pool 2, linear 1024, dropout 0.5, linear; all
    "same" padding and ReLU. Weights are normal with standard deviation 0.1, truncated at two of them;
    biases 0.1. Pooling comes before ReLU here: the two commute, and ReLU then has a quarter of the work.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 1024)
        self.dropout = HalfDropout()
        self.fc2 = nn.Linear(1024, classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(parameter, 0.1)
            else:
                nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as the tutorial flattens, and without a copy
        return self.fc2(self.dropout(F.relu(self.fc1(x))))  # type: ignore[no-any-return]
