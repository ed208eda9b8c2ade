"""The networks the lab trains: `MODELS[name](input_shape, classes)` makes one, freshly initialised.

Initial weights come from torch's global generator, so the seed set before the call decides them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModelFactory = Callable[[tuple[int, ...], int], nn.Module]

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
        words = torch.empty((x.numel() + 31) // 32, 1, dtype=torch.int32).random_(-(2**31), 2**31)
        coins = (words >> torch.arange(32, dtype=torch.int32)) & 1
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


class ConvReLUNorm(nn.Sequential):
    """3x3 convolution without bias, ReLU, BatchNorm without scale and shift: only a kernel to train."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(conv.weight)
        super().__init__(conv, nn.ReLU(), nn.BatchNorm2d(channels_out, affine=False))


class C10CNN1Small(nn.Module):
    """The smaller C10-CNN1 of the layer rotation paper: 4 stages of 3 convolutions, 16 to 128 channels.

    Max-pool 2 between stages, global average pool, a linear layer without bias; He uniform. BatchNorm
    averages with torch's momentum 0.1, since the short runs here would leave Keras' 0.99 behind.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        stages = []
        for channels_in, channels in pairwise((input_shape[0], 16, 32, 64, 128)):
            stages.append(
                nn.Sequential(
                    ConvReLUNorm(channels_in, channels),
                    ConvReLUNorm(channels, channels),
                    ConvReLUNorm(channels, channels),
                )
            )
        self.stages = nn.ModuleList(stages)
        self.dense = nn.Linear(128, classes, bias=False)
        nn.init.kaiming_uniform_(self.dense.weight)

    def forward(self, x: Tensor) -> Tensor:
        for position, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if position else x)
        return self.dense(x.mean((2, 3)))  # type: ignore[no-any-return]


class MLP(nn.Sequential):
    """Three hidden layers of 256 ReLU units, He normal, biases zero."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        sizes = (int(torch.Size(input_shape).numel()), 256, 256, 256, classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for position, (inputs, outputs) in enumerate(pairwise(sizes)):
            linear = nn.Linear(inputs, outputs)
            nn.init.kaiming_normal_(linear.weight)
            zeros_(linear.bias)
            layers += [nn.ReLU(), linear] if position else [linear]
        super().__init__(*layers)


def zeros_(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


MODELS: dict[str, ModelFactory] = {
    "digits-cnn": DigitsCNN,
    "percentdelta-cnn": PercentDeltaCNN,
    "c10-cnn1-small": C10CNN1Small,
    "mlp": MLP,
}

DEFAULT_MODEL = {
    "digits": "digits-cnn",
    "mnist": "percentdelta-cnn",
    "fashion-mnist": "percentdelta-cnn",
    "cifar10": "c10-cnn1-small",
    "cifar100": "c10-cnn1-small",
}
