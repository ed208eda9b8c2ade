"""The ends of the range of float32: finite numbers in, finite numbers out, and the same ones on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fused.cases import DIRECTIONS, RULES
from torch import Tensor

import layerpace as lp
from layerpace.engine.backends.cpu import available

BACKENDS = ["reference", *(["cpu"] if available() else [])]  # Triton's: tests/gpu_step/test_extremes.py
TINY, HUGE = 1.4e-45, 1e38
SIZES = (TINY, 1e-38, 1e-30, 1e-23, 1e-20, 1e-10, 1.0, 1e10, 1e18, 1e20, 1e25, HUGE)
FACTORS = (1.0, 0.5, -0.25)  # of the gradients of each step
D, R = lp.directions, lp.rules


def moved(backend: str, direction: D.Direction, steps: int = 3, device: str = "cpu") -> dict[str, Tensor]:
    """From zero, and the state: one entry for each size of gradients."""
    w = torch.zeros(len(SIZES), 1, device=device, requires_grad=True)
    optimizer = lp.Layerwise([w], direction=direction, rule="identity", lr=1e-3, backend=backend)
    for factor in FACTORS[:steps]:
        w.grad = torch.tensor(SIZES, device=device).mul(factor)[:, None]
        optimizer.step()
    return {"w": w.detach(), **optimizer.state[w]}


def assert_agrees(backend: str, name: str, steps: int, device: str = "cpu") -> None:
    expected, got = (moved(b, DIRECTIONS[name], steps, device) for b in ("reference", backend))
    for key, x in expected.items():
        torch.testing.assert_close(
            got[key], x, rtol=2e-5, atol=3e-45, equal_nan=True, msg=lambda m, at=f"{name}: {key}": f"{at}: {m}"
        )
    usual = [k for k, size in enumerate(SIZES) if size <= 1e20]
    assert expected["w"][usual].isfinite().all(), name


@pytest.mark.skipif(len(BACKENDS) == 1, reason="there is no compiled module")
def test_directions_agree_at_the_ends_of_the_range() -> None:
    for name in DIRECTIONS:
        assert_agrees("cpu", name, steps=3)


TWINS: dict[str, tuple[Any, Any]] = {
    "Adam": (lambda p: torch.optim.Adam(p, lr=1e-3), D.Adam()),
    "AMSGrad": (lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True), D.AMSGrad()),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=1e-3), D.AdaGrad()),
    "Adadelta": (lambda p: torch.optim.Adadelta(p, lr=1e-3), D.AdaDelta()),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=1e-3), D.RMSProp()),
    "Adamax": (lambda p: torch.optim.Adamax(p, lr=1e-3), D.AdaMax()),
    "RAdam": (lambda p: torch.optim.RAdam(p, lr=1e-3), D.RAdam()),
    "SGD": (lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), D.HeavyBall()),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gradient_of_1e20_does_what_it_does_in_torch(backend: str) -> None:
    """It is k*g*g there: (1 - beta2)*g*g is 1e37, where g*g first would be inf, in every step from then on."""
    for name, (make, direction) in TWINS.items():
        w, twin = (torch.zeros(4, requires_grad=True) for _ in range(2))
        optimizer = lp.Layerwise([w], direction=direction, rule="identity", lr=1e-3, backend=backend)
        other = make([twin])
        for g in (1e20, 1.0, -1.0):
            for p, method in ((w, optimizer), (twin, other)):
                p.grad = torch.full_like(p, g)
                method.step()
            for key, x in other.state[twin].items():
                if key != "step":
                    message = f"{name}: {key}"
                    torch.testing.assert_close(optimizer.state[w][key], x, rtol=1e-5, atol=0, msg=message)
            torch.testing.assert_close(w, twin, rtol=1e-5, atol=0, msg=f"{name}: {w} {twin}")


def on_tiny_weights(backend: str, name: str, direction: D.Direction, steps: int = 3, device: str = "cpu") -> None:
    rule, lr = RULES[name]
    sizes = (1.0, TINY, 1e-30, 1e20)
    params = [(f"{k}", torch.full((3, 2), TINY, device=device, requires_grad=True)) for k in range(len(sizes))]
    # ||w||/||u|| times a decay of w has no bound if ||u|| is of the direction alone.
    decays = rule.decoupled and getattr(rule, "norm", "") != "direction"
    options: dict[str, Any] = {"lr": lr, "weight_decay": 0.1 if decays else 0.0, "backend": backend}
    optimizer = lp.Layerwise(params, direction=direction, rule=rule, **options)
    for step in range(steps):
        for (_, w), size in zip(params, sizes, strict=True):
            w.grad = torch.full_like(w, size)
            w.grad[step % 3, 0] *= -0.5
        optimizer.step()
        for (_, w), size in zip(params, sizes, strict=True):
            assert w.isfinite().all(), f"{name} with gradients of {size}, step {step + 1}: {w}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_on_tiny_weights(backend: str) -> None:
    """c = 1 - q*(1 + k*<w,u>/<w,w>) is 1e42 for Layca on weights of 1e-45: inf as a float, and as a step."""
    for name in RULES:
        for direction in (D.SGD(), D.Adam()):
            on_tiny_weights(backend, name, direction)


def with_a_constant_gradient(backend: str, direction: D.Direction, rule: str, steps: int, device: str = "cpu") -> None:
    w = torch.linspace(0.5, 2.0, 24, device=device).reshape(4, 6).requires_grad_()
    g = torch.linspace(0.1, 3.0, 24, device=device).reshape(4, 6)
    optimizer = lp.Layerwise([w], direction=direction, rule=rule, lr=0.01, backend=backend)
    for step in range(steps):
        if step == 1:  # what many steps may end at
            optimizer.state[w]["grad_avg"].copy_(g)
            optimizer.state[w]["square_avg"].copy_(g * g * (1 - 1e-6))
        w.grad = g.clone()
        optimizer.step()
        assert w.isfinite().all(), f"{direction} and {rule}, step {step + 1}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_gradient_has_a_variance_of_zero(backend: str) -> None:
    """v - a*a is then what rounding leaves, of any sign: one nan among the entries would be the whole layer's."""
    for direction in (D.RMSProp(centered=True), D.RMSProp(centered=True, momentum=0.5)):
        for rule in ("trust_ratio", "rotation"):
            with_a_constant_gradient(backend, direction, rule, steps=10)
