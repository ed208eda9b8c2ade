"""Augmentation of image batches, for `Task.augment`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.125


def shift_and_flip(inputs: Tensor, generator: torch.Generator, shift: float = SHIFT, flip: bool = True) -> Tensor:
    """Shift each image by up to 12.5% of its sides, and flip it left to right every other time.

    As in the layer rotation code and the Wide ResNet paper: by a whole number of pixels from -shift * side to
    shift * side, in each direction alike often; what comes in from outside is 0, the mean of normalised inputs.

    Args:
        inputs: [N, C, H, W] of any dtype, on any device; not changed.
        generator: a CPU generator, the only randomness: N examples take the same draws on every device.
        shift: share of a side, 0 to 1.
        flip: whether to flip at all.

    Returns:
        A new tensor of the same shape, dtype and device.
    """
    number, _, height, width = inputs.shape
    tall, wide = int(shift * height), int(shift * width)
    down = torch.randint(-tall, tall + 1, (number,), generator=generator, device="cpu")
    right = torch.randint(-wide, wide + 1, (number,), generator=generator, device="cpu")
    flipped = torch.randint(0, 2 if flip else 1, (number, 1, 1, 1), generator=generator, device="cpu").bool()
    device = inputs.device
    turned = torch.where(flipped.to(device), inputs.flip(3), inputs)
    # every place that the image can be cut from its padded self, as a view: [N, C, 2 tall + 1, 2 wide + 1, H, W]
    windows = F.pad(turned, (wide, wide, tall, tall)).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(number, device=device), :, (tall - down).to(device), (wide - right).to(device)]
