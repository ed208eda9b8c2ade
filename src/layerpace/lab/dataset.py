"""What a model is trained and tested on: a `Dataset`, and the parts of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import UsageError


@dataclass(frozen=True)
class Dataset:
    """Training and test examples, first dimension the examples.

    Attributes:
        train_inputs, test_inputs: [N, ...]. uint8 inputs (images) stay as they are in memory and become
            (x - mean) / std, float32, a batch at a time; all others (floats, token ids) are used as they are.
        train_targets, test_targets: [N, ...], whatever the task's loss takes (int64 classes here).
        classes: number of classes, 0 where that has no meaning.
        mean, std: one number for all pixels and channels, in the units of uint8 inputs.

    Raises:
        UsageError: inputs and targets of different lengths, or none at all.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        for name, inputs, targets in (
            ("train", self.train_inputs, self.train_targets),
            ("test", self.test_inputs, self.test_targets),
        ):
            if len(inputs) != len(targets) or len(inputs) == 0:
                raise UsageError(f"the {name} set has {len(inputs)} inputs and {len(targets)} targets")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    def floats(self, inputs: Tensor) -> Tensor:
        """A batch as the model sees it."""
        if inputs.dtype != torch.uint8:
            return inputs
        return inputs.float().sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> Dataset:
        names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def fingerprint(self) -> str:
        """Changes when any example, target or scale does."""
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for tensor in (self.train_inputs, self.train_targets, self.test_inputs, self.test_targets):
            digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            if tensor.numel():
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()[:16]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor, for hashing."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def subset(data: Dataset, train: int | None = None, test: int | None = None, per_class: int | None = None) -> Dataset:
    """The first so many examples, as they stand in the files; mean and std stay those of the whole.

    Args:
        train, test: how many; None: all.
        per_class: the first so many training examples of *each* class instead of `train`, in the order of the files.

    Raises:
        UsageError: fewer than 1, more than there are, both `train` and `per_class`, or targets that are no classes.
    """
    if train is not None and per_class is not None:
        raise UsageError(f"train={train} and per_class={per_class}: give one of them")
    for name, wanted, there in (("train", train, len(data.train_inputs)), ("test", test, len(data.test_inputs))):
        if wanted is not None and not 1 <= wanted <= there:
            raise UsageError(f"{name}={wanted}: must be 1 to {there}, the number of {name} examples")
    if per_class is None:
        chosen = torch.arange(len(data.train_inputs) if train is None else train, device="cpu")
    else:
        chosen = first_of_each(data.train_targets, data.classes, per_class)
    chosen = chosen.to(data.train_inputs.device)
    return replace(
        data,
        train_inputs=data.train_inputs if chosen.numel() == len(data.train_inputs) else data.train_inputs[chosen],
        train_targets=data.train_targets[chosen],
        test_inputs=data.test_inputs[:test],
        test_targets=data.test_targets[:test],
    )


def first_of_each(targets: Tensor, classes: int, wanted: int) -> Tensor:
    """Indices, ascending, of the first `wanted` examples of each class."""
    if classes < 1 or targets.ndim != 1 or targets.is_floating_point():
        raise UsageError("per_class: the targets of this data set are no classes")
    places = [(targets == label).nonzero().flatten() for label in range(classes)]
    fewest = min(len(place) for place in places)
    if not 1 <= wanted <= fewest:
        raise UsageError(f"per_class={wanted}: must be 1 to {fewest}, the size of the smallest class")
    return torch.cat([place[:wanted] for place in places]).sort().values


def pixel_scale(images: Tensor, chunk: int = 1 << 24) -> tuple[float, float]:
    """(mean, standard deviation) of all entries of uint8 images, exact, without a copy of them as floats."""
    flat = images.reshape(-1)
    counts = torch.zeros(256, dtype=torch.float64, device="cpu")
    for start in range(0, len(flat), chunk):
        counts += torch.bincount(flat[start : start + chunk], minlength=256).cpu()
    values = torch.arange(256, dtype=torch.float64, device="cpu")
    mean = (counts @ values / counts.sum()).item()
    std = (counts @ (values - mean) ** 2 / counts.sum()).sqrt().item()
    return round(mean, 3), round(std, 3) or 1.0


def standardised(data: Dataset) -> Dataset:
    """The same images, normalised by the mean and standard deviation of all training pixels (layer rotation code).

    Raises:
        UsageError: inputs that are not uint8 have no such normalisation.
    """
    if data.train_inputs.dtype != torch.uint8:
        raise UsageError(f"only uint8 images are normalised; these inputs are {data.train_inputs.dtype}")
    mean, std = pixel_scale(data.train_inputs)
    return replace(data, mean=mean, std=std)
