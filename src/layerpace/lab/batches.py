"""Which examples a run sees, and when: a function of the seed and the step alone, so alike for every method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .data import Dataset
from .errors import UsageError
from .parallel import Team

SPLIT_SEED = 20_170_824  # of the validation split; one split for all runs


def split(examples: int, validation: int) -> tuple[Tensor, Tensor]:
    """(training, validation) indices of the training set, in a fixed random order."""
    if validation == 0:
        return torch.arange(examples, device="cpu"), torch.arange(0, device="cpu")
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")
    return order[validation:].sort().values, order[:validation].sort().values


def evenly(examples: int, wanted: int | None) -> Tensor:
    """`wanted` indices spread evenly over a test set: MNIST's first half is easier than its second."""
    if not wanted or wanted >= examples:
        return torch.arange(examples, device="cpu")
    return torch.arange(wanted, device="cpu") * examples // wanted


def portion(examples: int, parts: int, place: int) -> tuple[slice, int]:
    """The part at `place` of so many examples shared out in order, and its size.

    Sizes differ by one at most. An empty part has size 0 and a slice of one example: something must go through the
    model where other processes wait for it, and then counts for nothing.
    """
    size, larger = divmod(examples, parts)
    start = place * size + min(place, larger)
    count = size + (place < larger)
    return (slice(start, start + count), count) if count else (slice(0, 1), 0)


class Batches:
    """Batches of a data set in an order given by (seed, epoch); a last, smaller batch is left out.

    The processes of a team share each batch out, in order. Which examples it has does not depend on their number.
    """

    def __init__(
        self,
        data: Dataset,
        train: Tensor,
        batch_size: int,
        seed: int,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
        team: Team | None = None,
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
        team = team or Team()
        self.own, self.count = portion(batch_size, team.size, team.rank)

    def mixed(self, *place: int) -> int:
        """A seed of its own for each place."""
        value = self.seed
        for part in place:
            value = (value * 1_000_003 + part + 1) % 2**63
        return value

    def generator(self, *place: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.mixed(*place))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs as the model sees them, and targets, of this process' share of the batch at `step` (from 0)."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            order = torch.randperm(len(self.train), generator=self.generator(epoch), device="cpu")
            self.order = self.train[order].to(self.data.train_inputs.device)
            self.epoch = epoch
        index = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        own = index[self.own]
        if self.augment is None:
            return self.data.floats(self.data.train_inputs[own]), self.data.train_targets[own]
        # What one example gets depends on the whole batch's random numbers.
        inputs = self.augment(self.data.floats(self.data.train_inputs[index]), self.generator(epoch, position))
        return inputs[self.own], self.data.train_targets[own]

    def parts(self, step: int, number: int) -> list[tuple[Tensor, Tensor, float]]:
        """The share of this process in so many parts: inputs, targets, and what share of the whole batch they are."""
        inputs, targets = self(step)
        cuts = [portion(self.count, number, place) for place in range(number)]
        return [(inputs[part], targets[part], count / self.batch_size) for part, count in cuts]
