"""Tensors of every shape, memory layout and dtype: the values decide, not how they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import (
    NATIVE,
    Make,
    Problem,
    assert_differ,
    assert_same,
    methods,
    snapshot,
)
from torch import Tensor

import layerpace as lp


@methods
def test_odd_shapes(make: Make) -> None:
    shapes = [(0,), (3, 0, 2), (), (1,), (1, 1), (2, 3, 4, 5, 2)]
    problem = Problem(shapes=shapes)
    before = problem.weights()
    optimizer = make(problem.params, exclude=None)
    problem.train(optimizer, 4)
    assert_differ(problem.weights()[-1:], before[-1:])
    for p, shape in zip(problem.params, shapes, strict=True):
        assert p.shape == torch.Size(shape)
        assert torch.isfinite(p).all()
        for key, value in optimizer.state[p].items():
            if isinstance(value, Tensor):
                assert torch.isfinite(value).all(), key
    alone = Problem(shapes=shapes)  # an empty tensor changes nothing for the others
    kept = make(alone.params[2:], exclude=None)
    alone.train(kept, 4)
    assert_same(alone.weights()[2:], problem.weights()[2:])


def _layouts() -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways to store the same 4-D values."""
    return {
        "channels last": lambda w: w.contiguous(memory_format=torch.channels_last),
        "transposed": lambda w: w.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "with holes": lambda w: torch.stack([w, torch.full_like(w, 9.0)], dim=-1)[..., 0],
        "a slice of more": lambda w: torch.cat([w, w + 1, w - 1], dim=1)[:, w.shape[1] : 2 * w.shape[1]] - 1,
    }


@methods
@pytest.mark.parametrize("layout", list(_layouts()))
@pytest.mark.parametrize("grad_too", [True, False], ids=["gradient alike", "contiguous gradient"])
def test_the_layout_in_memory_does_not_matter(make: Make, layout: str, grad_too: bool) -> None:
    change = _layouts()[layout]
    plain = Problem(shapes=[(4, 3, 2, 5)])
    other = Problem(shapes=[(4, 3, 2, 5)])
    other.params = [change(p.detach()).detach().requires_grad_() for p in other.params]
    strides = other.params[0].stride()
    assert layout == "a slice of more" or not other.params[0].is_contiguous()
    a, b = make(plain.params), make(other.params)
    for step in range(4):
        plain.set_gradients(step)
        other.set_gradients(step)
        if grad_too:
            other.params[0].grad = change(other.params[0].grad)  # type: ignore[arg-type]
        a.step()
        b.step()
    torch.testing.assert_close(other.params[0], plain.params[0], rtol=1e-12, atol=1e-13)
    assert other.params[0].stride() == strides
    if layout == "channels last" and make in NATIVE.values():  # a wrapped optimizer's state is torch's
        for key, value in b.state[other.params[0]].items():
            if isinstance(value, Tensor) and value.shape == other.params[0].shape:
                assert value.is_contiguous(memory_format=torch.channels_last), key


@methods
def test_values_outside_a_slice_are_not_touched(make: Make) -> None:
    storage = torch.arange(24, dtype=torch.float64).reshape(4, 6) / 24
    original = storage.clone()
    param = storage[::2, 1:4].requires_grad_()
    optimizer = make([param])
    for _ in range(2):
        param.grad = torch.ones_like(param)
        param.grad[0, 1] = -2.0
        optimizer.step()
    mask = torch.zeros_like(storage, dtype=torch.bool)
    mask[::2, 1:4] = True
    assert torch.equal(storage.detach()[~mask], original[~mask])
    assert not torch.equal(storage.detach()[mask], original[mask])


@methods
def test_dtypes_may_be_mixed(make: Make) -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    mixed = [Problem(dtype=dtype) for dtype in dtypes]
    optimizer = make([p for problem in mixed for p in problem.params])
    for step in range(3):
        for problem in mixed:
            problem.set_gradients(step)
        optimizer.step()
    for problem, dtype in zip(mixed, dtypes, strict=True):
        alone = Problem(dtype=dtype)
        alone.train(make(alone.params), 3)
        assert_same(problem.weights(), alone.weights())
        assert all(p.dtype == dtype for p in problem.params)


@methods
def test_a_complex_tensor_is_twice_as_many_real_numbers(make: Make) -> None:
    pairs, reals = Problem(shapes=[(4, 3, 2), (5, 2)]), Problem(shapes=[(4, 3, 2), (5, 2)])
    numbers = [torch.view_as_complex(p.detach()).clone().requires_grad_() for p in pairs.params]
    a, b = make(numbers, exclude=None), make(reals.params, exclude=None)
    for step in range(4):
        reals.set_gradients(step)
        for z, r in zip(numbers, reals.params, strict=True):
            assert r.grad is not None
            z.grad = torch.view_as_complex(r.grad)
        a.step()
        b.step()
    for z, r, start in zip(numbers, reals.params, pairs.params, strict=True):
        assert z.dtype == torch.complex128
        torch.testing.assert_close(torch.view_as_real(z.detach()), r.detach(), rtol=1e-12, atol=1e-13)
        assert not torch.equal(r, start)


@pytest.mark.parametrize(
    ("direction", "torch_class", "options"),
    [
        (lp.directions.HeavyBall(), torch.optim.SGD, {"momentum": 0.9}),
        (lp.directions.Adam(), torch.optim.Adam, {}),
        (lp.directions.RMSProp(), torch.optim.RMSprop, {}),
        (lp.directions.AdaMax(), torch.optim.Adamax, {}),
    ],
    ids=["heavy ball", "adam", "rmsprop", "adamax"],
)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_equals_torch(direction: Any, torch_class: Any, options: dict[str, Any], dtype: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(s, generator=generator, dtype=torch.complex128).to(dtype) for s in ((4, 3), (5,), ())]
    mine, theirs = ([w.clone().requires_grad_() for w in start] for _ in range(2))
    a = lp.Layerwise(
        mine, direction=direction, rule="identity", lr=0.05, weight_decay=0.02, decoupled_weight_decay=False
    )
    b = torch_class(theirs, lr=0.05, weight_decay=0.02, foreach=False, **options)
    for _ in range(10):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.complex128).to(dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    tolerance = 1e-12 if dtype == torch.complex128 else 1e-5
    for p, q, w in zip(mine, theirs, start, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        assert not torch.equal(p, w)


@methods
def test_sparse_gradients_are_refused_before_anything_changes(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    problem.train(optimizer, 2)
    problem.set_gradients(2)
    before = snapshot(optimizer)
    for index in (0, 3) if make in NATIVE.values() else (0,):  # torch's SGD takes what a rule leaves out
        problem.set_gradients(2)
        problem.params[index].grad = problem.params[index].grad.to_sparse()  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 1, first=2)  # and goes on
    reference = Problem()
    reference.train(make(reference.params), 3)
    assert_same(problem.weights(), reference.weights())
