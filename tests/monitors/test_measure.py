"""Sums over how far tensors have moved, of any dtype and layout, by each of the ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from layerpace.engine.backends.cpu import native
from layerpace.monitors import measure

KINDS = ("compiled", "plain", "norms")


def tensors(dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(300, 200), (5,), (), (3, 4, 2, 2), (17, 1), (70000,), (0, 3)]
    made = [torch.randn(shape, dtype=torch.float64).mul(scale).to(dtype) for shape in shapes]
    made[3] = made[3].contiguous(memory_format=torch.channels_last)
    return [*made, made[0].T, made[0][:, ::2], made[5][1:]]


def exact(old: Tensor, new: Tensor) -> Tensor:
    w = old.double().reshape(-1)
    d = w - new.double().reshape(-1)
    return torch.stack([w @ w, w.abs().sum(), d @ d, w @ d, d.abs().sum()])


@pytest.fixture(params=KINDS)
def moves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    if request.param == "norms":
        return measure._moves_by_norms
    if request.param == "plain":
        monkeypatch.setattr(measure, "native", lambda: None)
    elif native() is None:
        pytest.skip("there is no compiled module")
    return measure.moves


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float64),
    ],
    ids=str,
)
def test_moves(moves: Callable[..., Tensor], old: torch.dtype, new: torch.dtype) -> None:
    before = tensors(old)
    after = [x.to(torch.float64).mul(0.999).to(new) for x in before]
    found = moves(before, after)
    for a, b, got in zip(before, after, found, strict=True):
        torch.testing.assert_close(got, exact(a, b), rtol=3e-7, atol=1e-12)


def test_tensors_that_stand_apart(moves: Callable[..., Tensor]) -> None:
    """Pairs of other layouts: what is compared is what stands at the same index."""
    a = torch.arange(12.0).reshape(3, 4)
    pairs: Sequence[tuple[Tensor, Tensor]] = [(a, a.T.contiguous().T * 2), (a.T.contiguous().T, a * 3)]
    found = moves([old for old, _ in pairs], [new for _, new in pairs])
    for (old, new), got in zip(pairs, found, strict=True):
        torch.testing.assert_close(got, exact(old, new))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_squares(dtype: torch.dtype) -> None:
    made = tensors(dtype)
    expected = torch.stack([x.double().square().sum() for x in made])
    torch.testing.assert_close(measure.squares(made), expected, rtol=3e-7, atol=0)
    torch.testing.assert_close(measure._norms(made, 2).square(), expected, rtol=1e-12, atol=0)


@pytest.mark.skipif(native() is None, reason="there is no compiled module")
def test_the_same_bits_for_any_number_of_threads() -> None:
    made = tensors(torch.float32)[:7]
    moved = [x * 0.99 for x in made]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append((measure.moves(made, moved), measure.squares(made)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_parts_of_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_TOGETHER", 10)
    made = [torch.empty(n) for n in (4, 5, 3, 20, 1, 9, 1)]
    assert [made[part][0].numel() for part in measure._parts(made)] == [4, 3, 20, 1, 1]
    assert [place for part in measure._parts(made) for place in range(7)[part]] == list(range(7))
