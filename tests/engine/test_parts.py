"""How directions, rules and clips are described, and what signatures say of the options."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, Unpack

import pytest
import torch
from torch import nn

import layerpace as lp
from layerpace.optim.options import Options

OPTIMIZERS = {cls: {} for cls in (lp.LAMB, lp.LAMBC, lp.Layca, lp.PercentDelta)} | {
    lp.LARS: {"lr": 1.0},
    lp.Layerwise: {"lr": 1.0, "direction": "sgd", "rule": "identity"},
}


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, 3))


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_a_signature_names_what_the_optimizer_takes_and_nothing_else(cls: Any) -> None:
    """Who reads signatures passes all that they name, as LightningCLI does."""
    parameters = dict(inspect.signature(cls).parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert cls is lp.Layerwise or not any(isinstance(p.annotation, str) for p in parameters.values())
    del parameters["params"]
    needed = {name for name, p in parameters.items() if p.default is p.empty}
    assert needed == set(OPTIMIZERS[cls])
    cls([weight()], **{name: OPTIMIZERS[cls].get(name, p.default) for name, p in parameters.items()})
    named = inspect.signature(lp.Layerwise).parameters
    for name in set(named) - set(parameters) - {"params"}:
        with pytest.raises(TypeError, match="unexpected keyword"):
            cls([weight()], **OPTIMIZERS[cls], **{name: named[name].default})


def test_the_signature_of_a_users_method() -> None:
    class Mine(lp.LAMB):
        def __init__(self, params: Any, lr: float, **options: Unpack[Options]) -> None:
            super().__init__(params, lr, betas=(0.5, 0.5), **options)

    parameters = inspect.signature(Mine).parameters
    assert list(parameters) == ["params", "lr", *Options.__annotations__]
    assert parameters["min_rms"].default == 1e-3


DESCRIBED: dict[str, Any] = {
    "direction": lp.directions.RAdam(betas=(0.8, 0.9)),
    "rule": lp.rules.TrustRatio(clip=lp.rules.RunningBounds(deviations=2.0)),
}
AS_TEXT: dict[str, Any] = {
    "direction": {"class_path": "layerpace.directions.RAdam", "init_args": {"betas": [0.8, 0.9]}},
    "rule": {
        "class_path": "layerpace.rules.TrustRatio",
        "init_args": {"clip": {"class_path": "layerpace.rules.RunningBounds", "init_args": {"deviations": 2.0}}},
    },
}


def test_parts_by_class_path() -> None:
    optimizer = lp.Layerwise([weight()], lr=0.1, **AS_TEXT)
    assert optimizer.direction == DESCRIBED["direction"] and optimizer.rule == DESCRIBED["rule"]
    assert lp.LAMB([weight()], trust_clip={"class_path": "layerpace.rules.LARCClip"}).rule == lp.rules.TrustRatio(
        clip=lp.rules.LARCClip()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_path": "layerpace.directions.Radam"},
        {"class_path": "nowhere.Adam"},
        {"class_path": "RAdam"},
        {"class_path": 3},
        {"class_path": "layerpace.directions.RAdam", "betas": [0.8, 0.9]},
    ],
)
def test_what_describes_nothing_is_told(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"direction: .*class_path.*init_args"):
        lp.Layca([weight()], direction=wrong)


def test_a_part_of_another_kind_is_told() -> None:
    with pytest.raises(TypeError, match="direction must be a name or an instance"):
        lp.Layca([weight()], direction={"class_path": "layerpace.rules.Identity"})  # type: ignore[arg-type]


def test_wrapped_makes_the_optimizer_of_parameters() -> None:
    described = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}
    for maker, more in ((partial(torch.optim.AdamW, lr=0.1), {}), (described, {}), (torch.optim.AdamW, {"lr": 0.1})):
        by_class, by_hand = weight(), weight()
        one = lp.Wrapped([by_class], maker, "rotation", min_rms=0.5, **more)  # type: ignore[arg-type]
        other = lp.wrap(torch.optim.AdamW([by_hand], lr=0.1), "rotation", min_rms=0.5)
        assert type(one) is type(other)
        for param, optimizer in ((by_class, one), (by_hand, other)):
            param.grad = torch.arange(6.0).reshape(2, 3)
            optimizer.step()
        assert torch.equal(by_class, by_hand) and not torch.equal(by_class, torch.ones(2, 3))


def test_wrapped_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match=r"needs what makes an optimizer, such as torch\.optim\.AdamW, got 'adam'"):
        lp.Wrapped([weight()], "adam", "rotation")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"needs what makes a torch\.optim\.Optimizer, got \[\]"):
        lp.Wrapped([weight()], lambda params: [], "rotation")  # type: ignore[arg-type, return-value]
