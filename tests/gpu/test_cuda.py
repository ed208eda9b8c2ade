"""What only a CUDA device can show: that a step never waits for it, and that both devices agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.methods import NATIVE, Make
from torch import nn

import layerpace as lp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

methods = pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def model_on(device: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().to(device)


def set_gradients(model: nn.Module, step: int) -> None:
    for index, p in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(100 * step + index)
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator).to(p.device)


@methods
def test_both_devices_agree(make: Make) -> None:
    weights = []
    for device in ("cpu", "cuda"):
        model = model_on(device)
        optimizer = make(model.named_parameters())
        for step in range(5):
            set_gradients(model, step)
            optimizer.step()
        weights.append([p.detach().cpu() for p in model.parameters()])
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)


@methods
@pytest.mark.parametrize(
    "options",
    [{}, {"segments": {"0.weight": 4, "2.weight": [1, 3]}}, {"nonfinite": "skip"}, {"max_grad_norm": 1.0}, {"lr": 0.0}],
    ids=str,
)
@pytest.mark.usefixtures("waiting_is_an_error")
def test_no_step_waits_for_the_device(make: Make, options: dict[str, Any]) -> None:
    model = model_on("cuda")
    torch.cuda.set_sync_debug_mode("default")
    optimizer = make(model.named_parameters(), **options)
    for step in range(2):  # the first ones put indices and state onto the device
        set_gradients(model, step)
        optimizer.step()
    set_gradients(model, 2)
    torch.cuda.set_sync_debug_mode("error")
    optimizer.step()


@methods
@pytest.mark.parametrize("lr_device", ["cpu", "cuda"])
@pytest.mark.usefixtures("waiting_is_an_error")
def test_no_step_waits_for_a_tensor_rate(make: Make, lr_device: str) -> None:
    model = model_on("cuda")
    torch.cuda.set_sync_debug_mode("default")
    optimizer = make(model.named_parameters(), lr=torch.tensor(0.01, device=lr_device))
    for step in range(2):
        set_gradients(model, step)
        optimizer.step()
    set_gradients(model, 2)
    torch.cuda.set_sync_debug_mode("error")
    optimizer.step()


def test_grad_scaler_skips_without_waiting() -> None:
    model = model_on("cuda").float()
    optimizer = lp.LAMB(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model(torch.full((2, 6), torch.inf, device="cuda")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())


@methods
@pytest.mark.usefixtures("waiting_is_an_error")
def test_watching_does_not_wait(make: Make) -> None:
    model = model_on("cuda")
    optimizer = make(model.named_parameters())
    monitor = lp.Monitor(model, optimizer, every=1, out=None, rotation_every=2, second_moment=True)
    for step in range(5):
        set_gradients(model, step)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("default")
    assert monitor.run.history.steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("foreign", [False, True])
def test_watching_sees_the_same_on_both_devices(foreign: bool) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = model_on(device)
        kind: Any = torch.optim.AdamW if foreign else lp.LAMB
        optimizer = kind(model.parameters(), lr=0.01)
        monitor = lp.Monitor(model, optimizer, every=1, out=None, rotation_every=1, second_moment=True)
        for step in range(3):
            set_gradients(model, step)
            optimizer.step()
        found.append({name: monitor.run.history[name] for name in monitor.run.history.quantities})
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-9, equal_nan=True)
