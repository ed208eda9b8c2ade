"""scikit-learn's digits: the data set that needs no file, also in the shape of the others."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .dataset import Dataset, pixel_scale
from .errors import UsageError
from .extras import require


def digits() -> Dataset:
    """scikit-learn's 1797 digits, 8x8, 0 to 16. Of each class every fourth image is for testing (445 in all)."""
    require(["sklearn"], "the digits data set")
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(inputs).to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels).long()
    test = torch.zeros(len(targets), dtype=torch.bool, device="cpu")
    for digit in range(10):
        test[(targets == digit).nonzero().flatten()[3::4]] = True
    return Dataset(images[~test], targets[~test], images[test], targets[test], classes=10, mean=0.0, std=16.0)


def digits_as(shape: tuple[int, ...]) -> Dataset:
    """The digits enlarged to (channels, height, width), uint8 0 to 255: stands for MNIST or CIFAR where there is none.

    Pixels between the old ones are interpolated, all channels are alike, and one mean and one standard deviation
    normalise them, as CIFAR's do.

    Raises:
        UsageError: another shape, or one smaller than 8 x 8.
    """
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 8:
        raise UsageError(f"shape {shape}: must be (channels, height, width) with at least one channel of 8 x 8")
    small = digits()
    train, test = enlarged(small.train_inputs, shape), enlarged(small.test_inputs, shape)
    mean, std = pixel_scale(train)
    return replace(small, train_inputs=train, test_inputs=test, mean=mean, std=std)


def enlarged(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    scaled = images.float() * (255 / 16)
    larger = F.interpolate(scaled, size=tuple(shape[1:]), mode="bilinear", align_corners=False)
    return larger.round().clamp(0, 255).to(torch.uint8).repeat(1, shape[0], 1, 1)
