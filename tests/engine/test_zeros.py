"""Layers that start at zero under a rule that keeps norms are told of: once by a warning, and by a finding."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerpace as lp

Named = list[tuple[str, Tensor]]


def parameters() -> Named:
    """A matrix, one of zeros, one with a row of zeros, and a vector of zeros."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, generator=generator)
    rows[1] = 0
    tensors = {"full": torch.randn(4, 3, generator=generator), "zero": torch.zeros(3, 2), "rows": rows}
    return [(name, x.requires_grad_()) for name, x in (tensors | {"vector": torch.zeros(5)}).items()]


def told(optimizer: Any, named: Named, steps: int = 3, gradient: Callable[[Tensor], Tensor] = torch.ones_like) -> str:
    """What is warned of in a training; there is at most one warning."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(steps):
            for _, p in named:
                p.grad = gradient(p.detach()) * (1 + torch.rand_like(p))
            optimizer.step()
    messages = [str(one.message) for one in found if "min_rms" in str(one.message)]
    assert len(messages) <= 1
    return "".join(messages)


def wrapped(named: Named, **options: Any) -> Any:
    return lp.wrap(torch.optim.SGD(named, lr=0.1), lp.rules.Rotation(), **options)


def limited(named: Named, **options: Any) -> Any:
    return lp.Layerwise(named, direction="adam", rule="limited_norm", lr=0.1, **options)


KEEPERS: dict[str, Callable[..., Any]] = {"Layca": lp.Layca, "wrapped": wrapped, "limited norm": limited}
keepers = pytest.mark.parametrize("make", KEEPERS.values(), ids=KEEPERS)


def names(message: str) -> list[str]:
    return re.findall("'(.*?)'", message.split("started")[0])


@keepers
def test_a_layer_of_zeros_is_told_once(make: Callable[..., Any]) -> None:
    named = parameters()
    optimizer = make(named)
    message = told(optimizer, named)
    assert names(message) == ["zero"] and "min_rms = 0.001" in message and "exclude" in message
    assert told(optimizer, named) == ""
    again = copy.deepcopy(optimizer)
    assert told(again, [("", p) for group in again.param_groups for p in group["params"]]) == ""
    named = parameters()
    assert names(told(make(named, segments={"rows": "rows"}), named)) == ["zero", "rows[1]"]
    named = parameters()
    assert names(told(make(named, exclude=None), named)) == ["zero", "vector"]


@keepers
def test_what_does_not_stay_is_not_told(make: Callable[..., Any]) -> None:
    named = parameters()
    assert told(make(named, exclude=["zero", "vector"]), named) == ""
    named = parameters()
    assert told(lp.LAMB(named, lr=0.1), named) == ""
    named = parameters()  # a row that gets no gradient, as that of padding
    message = told(make(named, segments={"rows": "rows"}), named, gradient=lambda p: (p != 0).float())
    assert message == ""


def test_a_layer_that_is_held_back_is_told_later() -> None:
    named = parameters()
    optimizer = lp.Layca(named, nonfinite="skip")
    assert told(optimizer, named, gradient=lambda p: torch.full_like(p, torch.nan)) == ""
    assert names(told(optimizer, named)) == ["zero"]
    assert not optimizer._cache._zeros.waiting


class Adapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3, bias=False), nn.Linear(3, 4, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x))
        return out


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda named: lp.Layca(named), ("b.weight",)),
        (lambda named: lp.wrap(torch.optim.SGD(named, lr=0.1), lp.rules.Rotation()), ("b.weight",)),
        (lambda named: lp.Layca(named, exclude=["b.*"]), ()),
        (lambda named: lp.LAMB(named, lr=0.02), ()),
    ],
    ids=["Layca", "wrapped", "excluded", "LAMB"],
)
@pytest.mark.filterwarnings("ignore:.*min_rms")
def test_a_monitored_training_says_so(make: Callable[[Any], Any], found: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Adapter()
    optimizer = make(list(model.named_parameters()))
    monitor = lp.Monitor(model, optimizer, every=1)
    x = torch.randn(8, 6)
    for _ in range(12):
        optimizer.zero_grad()
        (model(x) - x[:, :4]).square().mean().backward()
        optimizer.step()
    findings = [finding for finding in monitor.diagnose() if finding.kind == "held_at_min_rms"]
    monitor.close()
    assert tuple(name for finding in findings for name in finding.layers) == found
    assert all("exclude" in finding.suggestion and "RMS 0.001" in finding.evidence for finding in findings)
