"""GradScaler beside the numbers: who is told what, who waits for whom, and what is left in ``p.grad``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerpace as lp

SCALE = 2.0**10
MAKERS: dict[str, Callable[[Any], Any]] = {
    "LAMB": lp.LAMB,
    "LARS": lambda params: lp.LARS(params, lr=1.0),
    "Layca": lp.Layca,
    "PercentDelta": lp.PercentDelta,
    "wrapped LAMB": lambda params: lp.wrap(lp.LAMB(params), "identity"),
    "wrapped Adam": lambda params: lp.wrap(torch.optim.Adam(params), "rotation"),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
OURS = ("LAMB", "LARS", "Layca", "PercentDelta")


class NeverWaits(torch.amp.GradScaler):
    """Fails where a scaler would unscale by itself and ask the device whether to step."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=SCALE)

    def unscale_(self, optimizer: Any) -> None:
        raise AssertionError("it unscales")

    def _maybe_opt_step(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it waits")


class PassesOn:
    """As several libraries wrap an optimizer: what it does not have, the optimizer has."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=SCALE)


def trained(make: Callable[[Any], Any], made: torch.amp.GradScaler | None, around: Any = lambda o: o) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = around(make(model.parameters()))
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().sum()
        (loss if made is None else made.scale(loss)).backward()
        if made is None:
            optimizer.step()
        else:
            made.step(optimizer)
            made.update()
    return [p.detach().clone() for p in model.parameters()]


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@makers
def test_only_a_scaler_is_told_that_it_need_not_wait(make: Callable[[Any], Any]) -> None:
    """Lightning clips no gradients where ``_step_supports_amp_scaling`` is true, with or without a scaler."""
    optimizer = make([nn.Parameter(torch.ones(2, 2))])
    assert getattr(optimizer, "_step_supports_amp_scaling", False) is False
    assert getattr(type(optimizer), "_step_supports_amp_scaling", False) is False


@pytest.mark.parametrize("name", OURS)
def test_a_scaler_does_not_wait(name: str) -> None:
    expected = trained(MAKERS[name], None)
    for got, weight in zip(trained(MAKERS[name], NeverWaits()), expected, strict=True):
        torch.testing.assert_close(got, weight, rtol=1e-5, atol=1e-7)


def test_the_attribute_can_be_set_for_one_optimizer() -> None:
    def make(params: Any) -> lp.LAMB:
        optimizer = lp.LAMB(params)
        optimizer._step_supports_amp_scaling = False  # type: ignore[assignment]
        return optimizer

    with pytest.raises(AssertionError, match="it unscales"):
        trained(make, NeverWaits())


@makers
def test_a_wrapper_that_passes_attributes_on_trains_the_same(make: Callable[[Any], Any]) -> None:
    """A scaler leaves its scale on the wrapper, where no step of the optimizer inside would find it."""
    expected = trained(make, None)
    for got, weight in zip(trained(make, scaler(), PassesOn), expected, strict=True):
        torch.testing.assert_close(got, weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("asked", [False, True])
def test_gradients_stay_scaled_unless_the_scaler_is_asked(name: str, asked: bool) -> None:
    model = nn.Linear(3, 2)
    optimizer, made = MAKERS[name](model.parameters()), scaler()
    made.scale(model(torch.ones(1, 3)).sum()).backward()
    backward = gradients(model)
    if asked:
        made.unscale_(optimizer)
    made.step(optimizer)
    for grad, left in zip(gradients(model), backward, strict=True):
        assert torch.equal(grad, left / SCALE if asked else left)
