from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerpace.lab.data import load
from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.ratings import counts, made_ratings, read_movielens

BASE = "1\t1\t5\t874965758\n1\t2\t3\t876893171\n3\t1\t1\t878542960\n"
TEST = "2\t4\t4\t874965759\n"


def put(folder: Path, base: str = BASE, test: str = TEST) -> Path:
    folder.mkdir(parents=True)
    (folder / "u1.base").write_text(base)
    (folder / "u1.test").write_text(test)
    return folder


def test_movielens_is_read_with_users_and_items_from_zero(tmp_path: Path) -> None:
    put(tmp_path / "ml-100k")
    data = load("movielens-100k", tmp_path)
    assert data.train_inputs.tolist() == [[0, 0], [0, 1], [2, 0]]
    assert data.train_targets.tolist() == [5.0, 3.0, 1.0]
    assert (data.test_inputs.tolist(), data.test_targets.tolist()) == ([[1, 3]], [4.0])
    assert (data.train_inputs.dtype, data.train_targets.dtype) == (torch.int64, torch.float32)
    assert counts(data) == (3, 4)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("1\t1\t5\n", r"u1\.base, line 1: .*is not user, item, rating, timestamp"),
        ("1\t1\t5\t0\n1\tx\t5\t0\n", r"u1\.base, line 2"),
        ("1\t1\t6\t0\n", "rating 6"),
        ("0\t1\t5\t0\n", "user 0"),
        ("", "is empty"),
        ("1\t1\t5\t0\xe9\n", "not a text of ratings"),
    ],
)
def test_a_line_that_is_no_rating_is_named(tmp_path: Path, base: str, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        read_movielens(put(tmp_path / "m", base=base))


def test_an_absent_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"u2\.base: No such file"):
        read_movielens(put(tmp_path / "m"), split="u2")


def test_made_ratings_are_like_movielens() -> None:
    data = made_ratings()
    ratings = torch.cat([data.train_targets, data.test_targets])
    assert (len(data.train_targets), len(data.test_targets)) == (80_000, 20_000)
    assert counts(data) == (943, 1682)
    assert ratings.unique().tolist() == [1, 2, 3, 4, 5]
    assert ratings.mean().item() == pytest.approx(3.53, abs=0.1)
    assert ratings.std().item() == pytest.approx(1.13, abs=0.1)
    pairs = torch.cat([data.train_inputs, data.test_inputs])
    assert len((pairs[:, 0] * 1682 + pairs[:, 1]).unique()) == 100_000  # no pair twice
    for column, least in ((0, 3), (1, 6)):  # the most active tenth rates this many times as much as the rest a head
        activity = torch.bincount(pairs[:, column]).sort(descending=True).values.float()
        tenth = len(activity) // 10
        assert activity[:tenth].mean() > least * activity[tenth:].mean()


def test_made_ratings_hold_biases_and_a_low_rank_part_that_can_be_found() -> None:
    """Mean squared error of what is known: the mean; then means of users and items; then the part of low rank."""

    def unexplained(rank: int) -> tuple[float, float, float]:
        data = made_ratings(200, 150, 24_000, rank=rank, seed=3)
        user, item = data.train_inputs.T
        left = data.train_targets - data.train_targets.mean()
        mean = left.square().mean().item()
        for _ in range(10):  # alternating means
            for index, number in ((user, 200), (item, 150)):
                sums = torch.zeros(number).index_add(0, index, left)
                left = left - (sums / torch.bincount(index, minlength=number).clamp(min=1))[index]
        table = torch.zeros(200, 150)
        table[user, item] = left
        share = torch.linalg.svdvals(table)[:2].square().sum() / table.square().sum()
        return mean, left.square().mean().item(), share.item()

    mean, biases, share = unexplained(2)
    _, without, noise = unexplained(0)
    assert biases < 0.8 * mean
    assert without < 0.9 * biases
    assert share > 2.5 * noise


def test_made_ratings_are_a_function_of_their_arguments() -> None:
    first = made_ratings(30, 20, 200, 2, seed=1).fingerprint()
    assert first == made_ratings(30, 20, 200, 2, seed=1).fingerprint()
    assert first != made_ratings(30, 20, 200, 2, seed=2).fingerprint()


@pytest.mark.parametrize(
    "arguments", [(0, 5, 2, 1), (5, 5, 26, 1), (5, 5, 1, 1), (5, 5, 10, -1), (20_000, 10_000, 100, 1)]
)
def test_impossible_ratings_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match=f"users={arguments[0]}, items={arguments[1]}"):
        made_ratings(*arguments)
