"""Which examples a run sees, and when: a function of the seed and the step alone, so alike for every method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .data import Dataset
from .errors import UsageError

SPLIT_SEED = 20_170_824  # of the validation split; one split for all runs


def split(examples: int, validation: int) -> tuple[Tensor, Tensor]:
    """(training, validation) indices of the training set, in a fixed random order."""
    if validation == 0:
        return torch.arange(examples), torch.arange(0)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[validation:].sort().values, order[:validation].sort().values


def evenly(examples: int, wanted: int | None) -> Tensor:
    """`wanted` indices spread evenly over a test set: MNIST's first half is easier than its second."""
    if not wanted or wanted >= examples:
        return torch.arange(examples)
    return torch.arange(wanted) * examples // wanted


class Batches:
    """Batches of a data set in an order given by (seed, epoch); a last, smaller batch is left out."""

    def __init__(
        self,
        data: Dataset,
        train: Tensor,
        batch_size: int,
        seed: int,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
    ) -> None:
        if not 1 <= batch_size <= len(train):
            raise UsageError(f"--batch-size {batch_size}: must be 1 to {len(train)}, the number of training examples")
        self.data = data
        self.train = train
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.per_epoch = len(train) // batch_size
        self.epoch = -1
        self.order = train

    def generator(self, *place: int) -> torch.Generator:
        value = self.seed
        for part in place:
            value = (value * 1_000_003 + part + 1) % 2**63
        return torch.Generator().manual_seed(value)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs as the model sees them, and targets, of the batch at `step` (from 0)."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            order = torch.randperm(len(self.train), generator=self.generator(epoch))
            self.order = self.train[order].to(self.data.train_inputs.device)
            self.epoch = epoch
        index = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        inputs = self.data.floats(self.data.train_inputs[index])
        if self.augment is not None:
            inputs = self.augment(inputs, self.generator(epoch, position))
        return inputs, self.data.train_targets[index]
