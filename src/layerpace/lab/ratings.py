"""Ratings for matrix factorisation: MovieLens-100K's files, and made ratings of the same structure.

Inputs are int64 [N, 2], (user, item), both from 0; targets are float32 [N], the ratings. `counts` says how many users
and items there are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .dataset import Dataset
from .errors import LabError, UsageError
from .formats import read_text

LOWEST, HIGHEST = 1, 5
MOST_PAIRS = 10**8
MOST_IDS = 10**6  # a model has a row of weights for each; MovieLens-100K has 943 and 1682

# Made ratings have about MovieLens-100K's mean 3.53 and standard deviation 1.13 once they are cut to 1 ... 5
MEAN, USER_SD, ITEM_SD, TASTE_SD, NOISE_SD = 3.6, 0.45, 0.5, 0.5, 0.85
TEST_SHARE = 0.2  # as u1.test's
USER_TAIL, ITEM_TAIL = 0.6, 0.8  # activity of the k-th most active goes as k**-tail


def counts(data: Dataset) -> tuple[int, int]:
    """(users, items): one more than the highest of each in the training and the test ratings."""
    users, items = torch.maximum(data.train_inputs.amax(0), data.test_inputs.amax(0)).tolist()
    return users + 1, items + 1


def read_movielens(folder: Path, split: str = "u1") -> Dataset:
    """MovieLens-100K: 943 users, 1682 items, 100,000 ratings from 1 to 5.

    Args:
        folder: the unpacked ml-100k.
        split: of its own five, "u1" to "u5", or "ua" and "ub": SPLIT.base trains, SPLIT.test tests.

    Raises:
        LabError: a file that is absent, or a line that is no rating; both are named.
    """
    train, train_ratings = read_ratings(folder / f"{split}.base")
    test, test_ratings = read_ratings(folder / f"{split}.test")
    return Dataset(train, train_ratings, test, test_ratings, classes=0)


def read_ratings(path: Path) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of a file of lines "user item rating timestamp", tab-separated, numbered from 1."""
    lines = read_text(path, "ascii", "text of ratings").splitlines()
    pairs, ratings = [], []
    for number, line in enumerate(lines, 1):
        try:
            user, item, rating, _ = map(int, line.split("\t"))
        except ValueError:
            raise LabError(f"{path}, line {number}: {line[:80]!r} is not user, item, rating, timestamp") from None
        if not 1 <= user <= MOST_IDS or not 1 <= item <= MOST_IDS or not LOWEST <= rating <= HIGHEST:
            said = f"user {user}, item {item}, rating {rating}"
            raise LabError(
                f"{path}, line {number}: {said[:80]}: users and items count from 1 to at most {MOST_IDS:,}, ratings "
                f"go from {LOWEST} to {HIGHEST}"
            )
        pairs.append((user - 1, item - 1))
        ratings.append(rating)
    if not pairs:
        raise LabError(f"{path} is empty")
    return torch.tensor(pairs, device="cpu"), torch.tensor(ratings, dtype=torch.float32, device="cpu")


def made_ratings(users: int = 943, items: int = 1682, ratings: int = 100_000, rank: int = 8, seed: int = 0) -> Dataset:
    """Made ratings with MovieLens' structure: what a factorisation with biases can find, and noise.

        rating = mean + b_user + b_item + <p_user, q_item> + noise, rounded and cut to 1 ... 5

    All terms are normal; their sizes are about MovieLens-100K's. Which pairs are rated is long-tailed: the k-th most
    active user counts as k^-0.6, the k-th most popular item as k^-0.8, and no pair is rated twice. A fifth of the
    ratings, chosen at random, is for testing. The same arguments make the same ratings.

    Args:
        users, items: numbers of them, in a random order of activity.
        ratings: of the two sets together.
        rank: of the low-rank part; 0 leaves it out.
        seed: of everything.

    Raises:
        UsageError: no such number of distinct pairs, or more than 10^8 pairs to choose from.
    """
    if min(users, items) < 1 or rank < 0 or not 2 <= ratings <= users * items or users * items > MOST_PAIRS:
        raise UsageError(
            f"users={users}, items={items}, ratings={ratings}, rank={rank}: users and items must be at least 1, with "
            f"at most {MOST_PAIRS} pairs; ratings 2 to the number of pairs; rank at least 0"
        )
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu")

    def activity(number: int, tail: float) -> Tensor:
        return -tail * (torch.randperm(number, generator=generator, device="cpu") + 1).float().log()

    # The largest of log weight + Gumbel noise are a draw without replacement.
    noise = -torch.empty(users, items, device="cpu").exponential_(generator=generator).log()
    scores = activity(users, USER_TAIL)[:, None] + activity(items, ITEM_TAIL) + noise
    chosen = scores.flatten().topk(ratings, sorted=False).indices.sort().values
    user, item = chosen // items, chosen % items
    values = MEAN + USER_SD * normal(users)[user] + ITEM_SD * normal(items)[item]
    if rank:
        tastes, traits = normal(users, rank), normal(items, rank)
        values += TASTE_SD / rank**0.5 * (tastes[user] * traits[item]).sum(1)
    values = (values + NOISE_SD * normal(ratings)).round().clamp(LOWEST, HIGHEST)
    inputs = torch.stack([user, item], 1)
    order = torch.randperm(ratings, generator=generator, device="cpu")
    held_out = max(1, round(TEST_SHARE * ratings))
    test, train = order[:held_out], order[held_out:]
    return Dataset(inputs[train], values[train], inputs[test], values[test], classes=0)
