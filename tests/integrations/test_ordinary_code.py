"""Ways of one plain training: gradients made, kept, summed and applied otherwise end in the same weights."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import nn
from torch.nn.utils import prune

import layerpace as lp

Make = Callable[[Any], Any]
MAKERS: dict[str, Make] = {
    "LAMB": lambda params: lp.LAMB(params, lr=0.01, weight_decay=0.1),
    "LARS": lambda params: lp.LARS(params, lr=5.0),
    "PercentDelta": lambda params: lp.PercentDelta(params, lr=0.01),
    "Layca": lambda params: lp.Layca(params, lr=0.02, direction="adam"),
    "wrap": lambda params: lp.wrap(torch.optim.SGD(params, lr=0.1, momentum=0.9), "rotation"),
}


def step(net: nn.Module, optimizer: Any, batch: Any) -> None:
    optimizer.zero_grad()
    tiny.loss(net, batch).backward()
    optimizer.step()


def accumulated(net: nn.Module, make: Make) -> None:
    optimizer = make(net.parameters())
    for x, y in tiny.batches():
        for part in (slice(0, 4), slice(4, 8)):
            (tiny.loss(net, (x[part], y[part])) / 2).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def in_backward(net: nn.Module, make: Make) -> None:
    """An optimizer a parameter, which steps as soon as its gradient is there."""
    optimizers = {param: make([param]) for param in net.parameters()}

    def apply(param: Any) -> None:
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in net.parameters():
        param.register_post_accumulate_grad_hook(apply)
    for batch in tiny.batches():
        tiny.loss(net, batch).backward()


def functional(net: nn.Module, make: Make) -> None:
    optimizer, params = make(net.parameters()), dict(net.named_parameters())
    for x, y in tiny.batches():

        def loss(given: Any, x: Any = x, y: Any = y) -> Any:
            return nn.functional.cross_entropy(torch.func.functional_call(net, given, (x,)), y)

        for name, grad in torch.func.grad(loss)({n: p.detach() for n, p in params.items()}).items():
            params[name].grad = grad
        optimizer.step()


def found_rate(net: nn.Module, make: Make) -> None:
    """A search for a rate in the middle, undone by what was saved before."""
    optimizer, (first, *rest) = make(net.parameters()), tiny.batches()
    step(net, optimizer, first)
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict()), file)
    for exponent, batch in enumerate(rest):
        optimizer.param_groups[0]["lr"] = 10.0 ** (exponent - 3)
        step(net, optimizer, batch)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    net.load_state_dict(weights)
    optimizer.load_state_dict(state)
    for batch in rest:
        step(net, optimizer, batch)


def copied(net: nn.Module, make: Make) -> None:
    """Each step by another optimizer: a shallow copy, which shares the state, or one that went through a pickle."""
    optimizer, here = make(net.parameters()), net
    for number, batch in enumerate(tiny.batches()):
        step(here, optimizer, batch)
        if number % 2:
            here, optimizer = pickle.loads(pickle.dumps((here, optimizer)))
        else:
            optimizer = copy.copy(optimizer)
    net.load_state_dict(here.state_dict())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("way", [accumulated, in_backward, functional, found_rate, copied])
def test_the_weights_are_those_of_the_plain_loop(way: Callable[[nn.Module, Make], None], make: Make) -> None:
    net = tiny.model()
    way(net, make)
    exact = way not in (accumulated, functional)
    expected = tiny.trained(lambda twin: make(twin.parameters()))
    tiny.same(net, expected, rtol=1e-6 if exact else 1e-4, atol=1e-7 if exact else 1e-5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_parametrizations_and_pruning_in_mid_training(make: Make) -> None:
    """What torch.nn.utils puts in the place of a weight is trained, and what it masks stays zero."""
    net = tiny.model()
    nn.utils.parametrizations.weight_norm(net[2])
    optimizer = make(net.parameters())
    before = tiny.weights(net)
    for number, batch in enumerate(list(tiny.batches()) * 2):
        if number == 3:
            prune.l1_unstructured(net[0], "weight", 0.5)
        step(net, optimizer, batch)
    assert int((net[0].weight == 0).sum()) == 18 and float(net[0].weight.norm()) > 0
    now = tiny.weights(net)
    for name, old in before.items():
        moved = now.get(name, now.get(f"{name}_orig"))
        assert moved is not None and moved.isfinite().all() and not torch.equal(moved, old), name
