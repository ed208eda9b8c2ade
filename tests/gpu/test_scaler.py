"""GradScaler: training in half precision equals that by the reference, and a step held back changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.gpu.common import DEVICE, MAIN, main, needs_gpu, waiting_is_an_error
from tests.methods import assert_same, snapshot
from torch import nn

pytestmark = needs_gpu

STEPS, BAD = 8, (0, 3, 4)  # steps whose gradient has an inf


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 10)).to(DEVICE)


def scaler() -> Any:
    found = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=2)
    found.scale(torch.zeros((), device=DEVICE))  # which makes its tensors
    return found


def optimizer(name: str, model: nn.Module, backend: str, options: dict[str, Any]) -> Any:
    make, lr = MAIN[name]
    return make(model.named_parameters(), lr=lr, backend=backend, **options)


def backward(model: nn.Module, scale: Any, step: int) -> None:
    """Scaled gradients in float32 of a network that computed in half precision."""
    x = torch.randn(32, 24, generator=torch.Generator().manual_seed(step)).to(DEVICE)
    model.zero_grad(set_to_none=True)
    with torch.autocast(DEVICE, dtype=torch.float16 if DEVICE == "cuda" else torch.bfloat16):
        loss = (model(x).float() - x[:, :10]).square().mean()
    scale.scale(loss).backward()
    if step in BAD:
        grad = model[2].weight.grad
        assert isinstance(grad, torch.Tensor)
        grad[3, 7] = torch.inf


@main
@pytest.mark.parametrize("unscales", [False, True], ids=["scaled", "unscaled and clipped before"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5, "nonfinite": "skip"}], ids=["plain", "guarded"])
def test_training_equals_the_reference(name: str, options: dict[str, Any], unscales: bool) -> None:
    """Both have the same gradients, those of the first network: else half precision would magnify a last bit."""
    model, twin = network(), network()
    ours, theirs = optimizer(name, model, "triton", options), optimizer(name, twin, "reference", options)
    scale, twin_scale = scaler(), scaler()
    for step in range(STEPS):
        backward(model, scale, step)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        for method, own in ((ours, scale), (theirs, twin_scale)):
            before = snapshot(method) if step else None
            if unscales:
                own.unscale_(method)
                params = [p for group in method.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            own.step(method)
            own.update()
            if before is not None and step in BAD:
                assert_same(snapshot(method), before)
        assert scale.get_scale() == twin_scale.get_scale()
        for (what, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(
                p, q, rtol=1e-5, atol=1e-6, msg=lambda m, what=what, step=step: f"{what}, step {step}: {m}"
            )
    for method in (ours, theirs):
        assert all(bool((state["step"] == STEPS - len(BAD)).all()) for state in method.state.values())


@main
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"max_grad_norm": 0.5}], ids=str)
def test_nothing_waits_for_the_device(name: str, options: dict[str, Any]) -> None:
    model, own = network(), scaler()
    method = optimizer(name, model, "triton", options)
    for step in range(STEPS):
        backward(model, own, step)
        if step < 2:  # which put tables and state onto the device
            own.step(method)
        else:
            with waiting_is_an_error():
                own.step(method)
        own.update()
    assert all(bool((state["step"] == STEPS - len(BAD)).all()) for state in method.state.values())
