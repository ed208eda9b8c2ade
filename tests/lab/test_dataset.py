from __future__ import annotations

import pytest
import torch

from layerpace.lab.data import Dataset, standardised, subset
from layerpace.lab.dataset import pixel_scale
from layerpace.lab.digits import digits, digits_as
from layerpace.lab.errors import UsageError


def made(classes: int = 3) -> Dataset:
    targets = torch.tensor([2, 0, 0, 1, 2, 0, 1, 1, 2, 0])
    inputs = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    return Dataset(inputs, targets, inputs[:4] + 100, targets[:4], classes, mean=3.0, std=2.0)


def test_a_subset_is_the_first_of_each_set_and_keeps_the_scale() -> None:
    part = subset(made(), train=4, test=2)
    assert part.train_inputs.flatten().tolist() == [0, 1, 2, 3]
    assert part.train_targets.tolist() == [2, 0, 0, 1]
    assert part.test_inputs.flatten().tolist() == [100, 101]
    assert (part.classes, part.mean, part.std) == (3, 3.0, 2.0)
    assert subset(made()).fingerprint() == made().fingerprint()


def test_a_balanced_subset_has_the_first_of_each_class_in_their_order() -> None:
    part = subset(made(), per_class=2)
    assert part.train_inputs.flatten().tolist() == [0, 1, 2, 3, 4, 6]
    assert torch.bincount(part.train_targets).tolist() == [2, 2, 2]
    assert len(part.test_inputs) == 4
    assert torch.equal(part.train_targets, made().train_targets[part.train_inputs.flatten().long()])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"train": 11}, "train=11: must be 1 to 10"),
        ({"train": 0}, "train=0: must be 1 to 10"),
        ({"test": 5}, "test=5: must be 1 to 4"),
        ({"per_class": 4}, "per_class=4: must be 1 to 3"),
        ({"train": 2, "per_class": 2}, "give one of them"),
    ],
)
def test_a_subset_that_there_is_not_is_refused(arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        subset(made(), **arguments)


def test_ratings_have_no_classes_to_balance() -> None:
    with pytest.raises(UsageError, match="no classes"):
        subset(made(classes=0), per_class=1)


def test_pixel_scale_is_the_mean_and_sd_of_all_pixels_whatever_the_chunks() -> None:
    images = torch.randint(0, 256, (7, 3, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = images.double().mean().item(), images.double().std(correction=0).item()
    for chunk in (1 << 24, 50):
        assert pixel_scale(images, chunk) == (pytest.approx(mean, abs=6e-4), pytest.approx(std, abs=6e-4))
    assert pixel_scale(torch.full((4,), 9, dtype=torch.uint8)) == (9.0, 1.0)  # nothing to divide by


def test_standardised_images_have_mean_0_and_sd_1() -> None:
    data = standardised(digits())
    inputs = data.floats(data.train_inputs)
    assert abs(inputs.mean().item()) < 1e-3 and abs(inputs.std().item() - 1) < 1e-3
    with pytest.raises(UsageError, match="float32"):
        standardised(Dataset(torch.rand(2, 2), torch.zeros(2), torch.rand(2, 2), torch.zeros(2), 2))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_enlarged_digits_are_the_digits(shape: tuple[int, int, int]) -> None:
    small, large = digits(), digits_as(shape)
    assert large.train_inputs.shape[1:] == large.test_inputs.shape[1:] == shape
    assert large.train_inputs.dtype == torch.uint8 and large.train_inputs.max() > 250
    assert torch.equal(large.train_targets, small.train_targets)
    assert (large.train_inputs == large.train_inputs[:, :1]).all()
    back = torch.nn.functional.adaptive_avg_pool2d(large.train_inputs[:, 0].float(), 8) * 16 / 255
    alike = torch.corrcoef(torch.stack([back.flatten(), small.train_inputs.float().flatten()]))[0, 1]
    assert alike > (0.9999 if shape[1] == 8 else 0.96)  # what is interpolated is smoother
    assert abs(large.floats(large.train_inputs).mean().item()) < 1e-3


def test_digits_cannot_shrink() -> None:
    with pytest.raises(UsageError, match="8 x 8"):
        digits_as((1, 7, 7))
