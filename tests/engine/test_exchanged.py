"""Parameters that are exchanged in an optimizer's groups, as accelerate does it when it shards a model."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp

MAKE: dict[str, Callable[[Any], Any]] = {
    "native": lambda groups: lp.LAMB(groups, lr=0.1, segments={"0.weight": 2}),
    "wrapped": lambda groups: lp.wrap(
        torch.optim.Adam(groups, lr=0.1), lp.rules.TrustRatio(), segments={"0.weight": 2}
    ),
}
makes = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """Layers that are found by name, by shape, and by what their group alone says."""
    named = dict(model.named_parameters())
    last = ("1.weight", named.pop("1.weight"))
    return [{"params": list(named.items())}, {"params": [last], "exclude": True}]


def exchange(optimizer: Any, model: nn.Module) -> None:
    """Put other tensors into the model and the groups, with placeholders between."""
    places: list[tuple[list[Any], int, str]] = []
    for group in optimizer.param_groups:
        for place, name in enumerate(group["param_names"]):
            places.append((group["params"], place, name))
            group["params"][place] = torch.empty(1)
    for params, place, name in places:
        module, _, attribute = name.rpartition(".")
        owner = model.get_submodule(module)
        setattr(owner, attribute, nn.Parameter(getattr(owner, attribute).detach().clone()))
        params[place] = getattr(owner, attribute)


def train(optimizer: Any, model: nn.Module, steps: int = 3) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@makes
def test_the_layers_are_those_of_the_places(make: Callable[[Any], Any]) -> None:
    model, twin = network(), network()
    optimizer, expected = make(groups_of(model)), make(groups_of(twin))
    exchange(optimizer, model)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    assert list(optimizer.layers) == params
    assert list(optimizer.layers.values()) == list(expected.layers.values())
    assert [cut.excluded for cut in optimizer.layers.values()] == [False, True, True, True]
    train(optimizer, model)
    train(expected, twin)
    for name, param in model.named_parameters():
        torch.testing.assert_close(param, twin.get_parameter(name), rtol=0, atol=0)


@makes
def test_the_memory_of_what_has_gone_is_free(make: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = make(groups_of(model))
    gone = [weakref.ref(param) for param in model.parameters()]
    exchange(optimizer, model)
    train(optimizer, model, 1)
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4


@makes
def test_a_state_loads_before_the_first_step(make: Callable[[Any], Any]) -> None:
    model, twin = network(), network()
    optimizer, expected = make(groups_of(model)), make(groups_of(twin))
    train(expected, twin)
    model.load_state_dict(twin.state_dict())
    exchange(optimizer, model)
    optimizer.load_state_dict(copy.deepcopy(expected.state_dict()))
    train(optimizer, model)
    train(expected, twin)
    for name, param in model.named_parameters():
        torch.testing.assert_close(param, twin.get_parameter(name), rtol=0, atol=0)


@makes
def test_others_are_described_anew(make: Callable[[Any], Any]) -> None:
    """A tensor of another shape in the place of one; the rest keeps what it has."""
    model = network()
    optimizer = make(groups_of(model))
    group = optimizer.param_groups[0]
    place = group["param_names"].index("1.bias")
    group["params"][place] = other = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    cuts = optimizer.layers
    assert cuts[other].name == "1.bias" and not cuts[other].excluded
    assert [cut.excluded for cut in cuts.values()] == [False, True, False, True] and cuts[model[0].weight].count == 2
