from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerpace.lab.augment import shift_and_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(image: Tensor, down: int, right: int, flip: bool) -> Tensor:
    """One image, pixel by pixel."""
    image = image.flip(2) if flip else image
    _, height, width = image.shape
    moved = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_every_image_is_one_of_its_shifts_and_flips_and_all_of_them_come(dtype: torch.dtype) -> None:
    image = torch.arange(1, 2 * 8 * 16 + 1).reshape(2, 8, 16).to(dtype)  # no two pixels of a channel are alike
    moved = shift_and_flip(image.expand(2000, -1, -1, -1), generator())
    assert moved.dtype == dtype
    possible = {
        by_hand(image, down, right, flip).numpy().tobytes(): (down, right, flip)
        for down in (-1, 0, 1)
        for right in (-2, -1, 0, 1, 2)
        for flip in (False, True)
    }
    found = [possible[one.contiguous().numpy().tobytes()] for one in moved]
    counts = torch.tensor([found.count(case) for case in possible.values()])
    assert (counts > 2000 / 30 * 0.6).all() and (counts < 2000 / 30 * 1.5).all()  # 30 cases, alike often


def test_the_generator_is_the_only_randomness_and_the_input_stays() -> None:
    images = torch.rand(16, 3, 8, 8)
    before = images.clone()
    torch.manual_seed(1)
    first = shift_and_flip(images, generator())
    torch.manual_seed(2)
    assert torch.equal(first, shift_and_flip(images, generator()))
    assert not torch.equal(first, shift_and_flip(images, generator(1)))
    assert torch.equal(images, before)


def test_either_can_be_left_out() -> None:
    images = torch.rand(32, 1, 8, 8)
    assert torch.equal(shift_and_flip(images, generator(), shift=0, flip=False), images)
    flipped = shift_and_flip(images, generator(), shift=0)
    same = (flipped == images).flatten(1).all(1)
    turned = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same ^ turned).all() and same.any() and turned.any()


def test_what_comes_in_is_zero() -> None:
    ones = torch.ones(64, 1, 16, 16)
    moved = shift_and_flip(ones, generator())
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert moved.flatten(1).mean(1).min() >= (14 / 16) ** 2
