"""What only a CUDA device can show: that a step never waits for it, and that both devices agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.gpu.common import DEVICE, needs_gpu, waiting_is_an_error
from tests.methods import NATIVE, Make
from torch import nn

import layerpace as lp

pytestmark = needs_gpu

methods = pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)
backends = pytest.mark.parametrize("backend", ["triton", "reference"])


def model_on(device: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().to(device)


def set_gradients(model: nn.Module, step: int) -> None:
    for index, p in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(100 * step + index)
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator).to(p.device)


def step_without_waiting(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The first steps put tables and state onto the device; later ones must not wait, whatever gradients they find."""
    for step in range(4):
        set_gradients(model, step)
        if step < 2:
            optimizer.step()
        else:
            with waiting_is_an_error():
                optimizer.step()


@methods
@backends
def test_both_devices_agree(make: Make, backend: str) -> None:
    weights = []
    for used, device in (("reference", "cpu"), (backend, DEVICE)):
        model = model_on(device)
        optimizer = make(model.named_parameters(), backend=used)
        for step in range(5):
            set_gradients(model, step)
            optimizer.step()
        weights.append([p.detach().cpu() for p in model.parameters()])
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)


@methods
@backends
@pytest.mark.parametrize(
    "options",
    [{}, {"segments": {"0.weight": 4, "2.weight": [1, 3]}}, {"nonfinite": "skip"}, {"max_grad_norm": 1.0}, {"lr": 0.0}],
    ids=str,
)
def test_no_step_waits_for_the_device(make: Make, backend: str, options: dict[str, Any]) -> None:
    model = model_on(DEVICE)
    step_without_waiting(model, make(model.named_parameters(), backend=backend, **options))


@methods
@backends
@pytest.mark.parametrize("lr_device", ["cpu", DEVICE])
def test_no_step_waits_for_a_tensor_rate(make: Make, backend: str, lr_device: str) -> None:
    model = model_on(DEVICE)
    lr = torch.tensor(0.01, device=lr_device)
    step_without_waiting(model, make(model.named_parameters(), backend=backend, lr=lr))


@backends
def test_grad_scaler_skips_a_step(backend: str) -> None:
    model = model_on(DEVICE).float()
    optimizer = lp.LAMB(model.parameters(), lr=0.01, backend=backend)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model(torch.full((2, 6), torch.inf, device=DEVICE)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())


@methods
@backends
def test_watching_does_not_wait(make: Make, backend: str) -> None:
    model = model_on(DEVICE)
    optimizer = make(model.named_parameters(), backend=backend)
    monitor = lp.Monitor(model, optimizer, every=1, out=None, rotation_every=2, second_moment=True)
    step_without_waiting(model, optimizer)
    assert monitor.run.history.steps == [1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["triton", "reference", "foreign"])
def test_watching_sees_the_same_on_both_devices(backend: str) -> None:
    found = []
    for used, device in (("reference", "cpu"), (backend, DEVICE)):
        model = model_on(device)
        optimizer: torch.optim.Optimizer
        if backend == "foreign":
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        else:
            optimizer = lp.LAMB(model.parameters(), lr=0.01, backend=used)
        monitor = lp.Monitor(model, optimizer, every=1, out=None, rotation_every=1, second_moment=True)
        for step in range(3):
            set_gradients(model, step)
            optimizer.step()
        found.append({name: monitor.run.history[name] for name in monitor.run.history.quantities})
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-9, equal_nan=True)
