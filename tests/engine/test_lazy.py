"""Lazy modules, whose parameters get their shape in the first forward pass: after the optimizer has been made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp


def network(lazy: bool) -> nn.Sequential:
    if lazy:
        return nn.Sequential(nn.LazyConv1d(6, 2), nn.Flatten(), nn.LazyLinear(3))
    return nn.Sequential(nn.Conv1d(2, 6, 2), nn.Flatten(), nn.Linear(18, 3))


def in_groups(model: nn.Module) -> list[dict[str, Any]]:
    """What one group says of itself must hold for it still when its tensors have a shape."""
    named = dict(model.named_parameters())
    head = [(name, named.pop(name)) for name in ("2.weight", "2.bias")]
    return [{"params": list(named.items()), "segments": {"0.weight": 2}}, {"params": head, "exclude": lambda *_: True}]


MAKE: dict[str, Callable[[nn.Module], Any]] = {
    "LAMB": lambda model: lp.LAMB(model.named_parameters(), lr=0.1, segments={"0.weight": 3}),
    "LARS": lambda model: lp.LARS(model.parameters(), lr=0.1, exclude=lambda name, p: p.ndim < 3),
    "Layca": lambda model: lp.Layca(model.named_parameters(), lr=0.1, exclude=["*.bias"]),
    "groups": lambda model: lp.LAMB(in_groups(model), lr=0.1),
    "wrapped": lambda model: lp.wrap(torch.optim.Adam(model.parameters(), lr=0.1), lp.rules.Rotation()),
}
makes = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def train(model: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 4, generator=generator)
    model(x)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@makes
def test_layers_are_those_of_the_shapes_that_came_later(make: Callable[[nn.Module], Any]) -> None:
    ready, lazy = network(lazy=False), network(lazy=True)
    expected, optimizer = make(ready), make(lazy)
    assert len(optimizer.layers) == 4  # as far as they are known
    for a, b in zip(train(lazy, optimizer), train(ready, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert list(optimizer.layers.values()) == list(expected.layers.values())
    assert not all(cut.excluded for cut in optimizer.layers.values())


def test_copies_made_before_the_shapes_are_known() -> None:
    lazy = network(lazy=True)
    model, optimizer = copy.deepcopy((lazy, MAKE["LAMB"](lazy)))
    ready = network(lazy=False)
    expected = train(ready, MAKE["LAMB"](ready))
    for a, b in zip(train(model, optimizer), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(optimizer))
    assert list(again.layers.values()) == list(optimizer.layers.values())


@pytest.mark.parametrize("name", ["LAMB", "wrapped"])
def test_state_waits_for_the_shapes(name: str) -> None:
    ready, lazy = network(lazy=False), network(lazy=True)
    expected, optimizer = MAKE[name](ready), MAKE[name](lazy)
    train(ready, expected)
    saved = copy.deepcopy(expected.state_dict())
    with pytest.raises(ValueError, match=r"0.*lazy module.*call the model once"):
        optimizer.load_state_dict(saved)
    assert not optimizer.state
    lazy(torch.ones(4, 2, 4))
    optimizer.load_state_dict(saved)
    for a, b in zip(train(lazy, optimizer), train(ready, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_glob_without_names_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        lp.LAMB(network(lazy=True).parameters(), exclude=["*.bias"])


def test_prioritize_needs_the_shapes() -> None:
    model = network(lazy=True)
    with pytest.raises(ValueError, match=r"0\.weight.*example_input"):
        lp.layers.prioritize(model, -0.5)
    assert len(lp.layers.prioritize(model, -0.5, torch.ones(1, 2, 4))) == 2
