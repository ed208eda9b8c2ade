"""Every quantity equals its recomputation in float64 from copies of the weights, with any optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import METHODS, NATIVE
from tests.monitors.recomputed import assert_close, quantities
from torch import Tensor, nn

import layerpace as lp

TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "torch AdamW": torch.optim.AdamW,
    "torch AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "torch Adagrad": torch.optim.Adagrad,
    "torch RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.5),
    "torch Adafactor": torch.optim.Adafactor,
}
# A tensor of more than one chunk, one below and one above where sums change, 1-D ones, one that is not contiguous.
SHAPES = {"large": (300, 131), "medium": (90, 181), "conv": (6, 4, 3, 3), "bias": (33,), "scalar": (), "one": (1, 1)}


class Net(nn.Module):
    """Parameters without a computation; their gradients are given."""

    def __init__(self, dtype: torch.dtype = torch.float32, shapes: dict[str, tuple[int, ...]] = SHAPES) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, shape in shapes.items():
            w = torch.randn(shape, dtype=torch.float64).to(dtype)
            if name == "conv":
                w = w.contiguous(memory_format=torch.channels_last)
            self.register_parameter(name, nn.Parameter(w))

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    def gradients(self, step: int) -> dict[str, Tensor]:
        torch.manual_seed(100 + step)
        for p in self.parameters():
            p.grad = torch.randn_like(p) * 0.1
        return {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def check(net: Net, optimizer: torch.optim.Optimizer, steps: int = 4, rtol: float = 1e-6, **options: Any) -> lp.Monitor:
    """Step, and compare each record."""
    initial = net.weights()
    monitor = lp.Monitor(net, optimizer, every=1, out=None, rotation_every=1, **options)
    for step in range(steps):
        grads, old = net.gradients(step), net.weights()
        optimizer.step()
        new, latest = net.weights(), monitor.latest()
        assert list(latest) == list(old)
        for name in old:
            expected = quantities(old[name], new[name], grads[name], initial[name])
            # An angle of rounding alone, and 1 - cos next to 0, have an absolute error.
            small = {"rotation_angle": 1e-9, "cosine_distance": 1e-14}
            assert_close(latest[name], expected, rtol, small)
    assert monitor.history.steps == list(range(1, steps + 1))
    return monitor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", [*METHODS.values(), *TORCH.values()], ids=[*METHODS, *TORCH])
def test_values_are_those_of_the_weights(make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype) -> None:
    net = Net(dtype)
    check(net, make(net.named_parameters()))


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", ["LAMB", "Layca", "LARS", "PercentDelta"])
def test_backends_measure_alike(name: str, backend: str) -> None:
    net = Net()
    check(net, NATIVE[name](net.named_parameters(), backend=backend))


@pytest.mark.parametrize("mode", ["stochastic", "plain"])
def test_half_precision_moves_as_far_as_its_memory_says(mode: str) -> None:
    net = Net(torch.bfloat16)
    check(net, lp.LAMB(net.named_parameters(), lr=0.05, low_precision=mode, exclude=None))


def test_master_copies_count() -> None:
    net = Net(torch.bfloat16)
    optimizer = lp.LAMB(net.named_parameters(), lr=1e-3, exclude=None)
    monitor = lp.Monitor(net, optimizer, every=1, out=None)
    for step in range(3):
        grads = net.gradients(step)
        masters = {n: optimizer.state[p].get("master", p).float().clone() for n, p in net.named_parameters()}
        optimizer.step()
        for name, p in net.named_parameters():
            expected = quantities(masters[name], optimizer.state[p]["master"], grads[name], masters[name])
            del expected["cosine_distance"]
            assert_close(monitor.latest()[name], expected, atol={"rotation_angle": 1e-9})
            assert 5e-4 < expected["relative_update_l2"] < 2e-3  # which bfloat16 weights could not show


def test_complex_weights() -> None:
    for make in (lambda p: lp.LAMB(p, exclude=None), torch.optim.AdamW):
        net = Net(torch.complex64, {"a": (40, 3), "b": (3,)})
        check(net, make(net.parameters()))


def test_segments_are_layers() -> None:
    shapes = {"qkv.weight".replace(".", "_"): (12, 500), "table": (5, 7)}
    for wrapped in (False, True):
        net = Net(shapes=shapes)
        segments = {"qkv*": 3, "table": "rows"}
        optimizer: torch.optim.Optimizer
        if wrapped:
            inner = torch.optim.SGD(net.named_parameters(), lr=0.1)
            optimizer = lp.wrap(inner, lp.rules.TrustRatio(), segments=segments)
        else:
            optimizer = lp.LAMB(net.named_parameters(), segments=segments)
        monitor = lp.Monitor(net, optimizer, every=1, out=None, rotation_every=1)
        grads, old = net.gradients(0), net.weights()
        optimizer.step()
        new, latest = net.weights(), monitor.latest()
        assert list(latest) == [f"qkv_weight[{k}]" for k in range(3)] + [f"table[{k}]" for k in range(5)]
        for name, parts in (("qkv_weight", 3), ("table", 5)):
            rows = zip(*(x[name].chunk(parts) for x in (old, new, grads, old)), strict=True)
            for k, (a, b, g, start) in enumerate(rows):
                assert_close(latest[f"{name}[{k}]"], quantities(a, b, g, start), atol={"cosine_distance": 1e-14})
                assert latest[f"{name}[{k}]"]["trust_ratio"] > 0


def test_tiny_and_huge_numbers_are_not_lost() -> None:
    for size in (1e-22, 1e15):
        for make in (lambda p: lp.Layerwise(p, direction="sgd", rule="identity", lr=0.1), torch.optim.SGD):
            net = Net(shapes={"large": (300, 131)})
            optimizer = make(net.parameters())
            monitor = lp.Monitor(net, optimizer, every=1, out=None)
            net.gradients(0)
            net.large.grad.mul_(size)
            expected = net.large.grad.double().norm().item()
            optimizer.step()
            assert math.isclose(monitor.latest()["large"]["grad_norm"], expected, rel_tol=1e-6)


def test_trust_ratios_before_and_after_clipping() -> None:
    net = Net()
    monitor = check(net, lp.LAMBC(net.named_parameters(), lr=0.01, trust_clip=1.2, weight_decay=0.01, exclude=["bias"]))
    ratio, before = (monitor.history[name] for name in ("trust_ratio", "trust_ratio_unclipped"))
    places = [place for place, name in enumerate(SHAPES) if name != "bias"]
    assert torch.equal(ratio[:, places], before[:, places].clamp(max=1.2))
    assert (before[:, places] > 1.2).any() and (before[:, places] < 1.2).any()
    assert ratio[:, list(SHAPES).index("bias")].isnan().all()  # no rule is applied to it
    share = {name: (before[:, k] > 1.2).float().mean().item() for k, name in enumerate(SHAPES) if name != "bias"}
    assert monitor.history.clipped() == pytest.approx(share)
    free = Net()
    unclipped = check(free, lp.LAMB(free.named_parameters(), lr=0.01, weight_decay=0.01, exclude=["bias"]))
    torch.testing.assert_close(unclipped.history["trust_ratio"][0, places], before[0, places])
    assert "trust_ratio_unclipped" not in unclipped.history and not unclipped.history.clipped()


def test_layca_turns_by_what_it_says() -> None:
    net = Net()
    monitor = check(net, lp.Layca(net.named_parameters(), lr=0.05, exclude=None, direction="adam"))
    angles = monitor.history["rotation_angle"][:, :4]
    torch.testing.assert_close(angles, torch.full_like(angles, math.atan(0.05)), rtol=1e-5, atol=0)


def test_percentiles_of_the_second_moment() -> None:
    for make in (lambda p: lp.LAMB(p, exclude=None), torch.optim.RMSprop):
        net = Net(shapes={"small": (30, 40), "large": (300, 200)})
        optimizer = make(net.parameters())
        monitor = lp.Monitor(net, optimizer, every=1, out=None, second_moment=True)
        net.gradients(0)
        optimizer.step()
        latest = monitor.latest()
        for name, p in net.named_parameters():
            state = optimizer.state[p]
            v = state.get("exp_avg_sq", state.get("square_avg")).flatten()
            exact = [torch.quantile(v, q / 100).item() for q in (10, 50, 90)]
            tolerance = 1e-6 if name == "small" else 0.1  # of a large layer a sample is taken
            for percent, value in zip((10, 50, 90), exact, strict=True):
                assert math.isclose(latest[name][f"second_moment_p{percent}"], value, rel_tol=tolerance)


def test_the_initial_weights_in_bfloat16() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    initial = net.weights()
    monitor = lp.Monitor(net, optimizer, every=1, out=None, rotation_every=1, initial="bf16")
    net.gradients(0)
    optimizer.step()
    for name, p in net.named_parameters():
        exact = quantities(p, p, p, initial[name])["cosine_distance"]
        assert math.isclose(monitor.latest()[name]["cosine_distance"], exact, rel_tol=2e-2, abs_tol=2e-6)
