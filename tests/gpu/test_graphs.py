"""A step in a CUDA graph: its replays are eager steps, to the bit, and what the device knows may change between them.

A twin with the same options and gradients takes eager steps, so that both run the same kernels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.fused.cases import Shapes
from tests.gpu.common import DEVICE, MAIN, made, main, make, needs_gpu, numbers, set_gradients
from tests.methods import assert_same
from torch import Tensor, nn

import layerpace as lp

pytestmark = needs_gpu

SHAPES: Shapes = {"small": (5, 3), "vector": (17,), "long": (40_009, 1), "wide": (64, 2048), "rows": (6, 5)}
Params = dict[str, Tensor]


def capture(step: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """A graph of what the function launches; nothing of it has run yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def warm_up(step: Callable[[], Any], times: int = 2) -> None:
    """Run it on a side stream first, as torch asks for before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(times):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def ready(name: str, **options: Any) -> tuple[Params, Any, Tensor]:
    """Parameters with gradients, an optimizer that has made two steps, and its learning rate, a tensor."""
    params = made(SHAPES)
    lr = torch.tensor(MAIN[name][1], device=DEVICE)
    options = {"lr": lr, "capturable": True, "segments": {"rows": "rows"}, **options}
    method = make(name, params, **options)
    return params, method, lr


def replay(graph: torch.cuda.CUDAGraph, params: Params, step: int, factor: float = 1.0) -> None:
    set_gradients(params, step, factor)
    graph.replay()


def eager(method: Any, params: Params, step: int, factor: float = 1.0) -> None:
    set_gradients(params, step, factor)
    method.step()


@main
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "nonfinite": "skip"}], ids=["plain", "guarded"])
def test_ten_replays_are_ten_steps(name: str, options: dict[str, Any]) -> None:
    params, method, _ = ready(name, **options)
    twins, twin, _ = ready(name, **options)
    warm_up(method.step)
    for _ in range(2):
        twin.step()
    before = numbers(params, method)
    assert_same(before, numbers(twins, twin))
    graph = capture(method.step)
    assert_same(numbers(params, method), before)  # a capture runs nothing
    for step in range(10):
        replay(graph, params, step)
        eager(twin, twins, step)
    after = numbers(params, method)
    assert_same(after, numbers(twins, twin))
    for layer, found in after.items():
        assert found["step"].device.type == DEVICE and bool((found["step"] == 12).all()), layer
        assert not torch.equal(found["weight"], before[layer]["weight"]), layer


def test_a_learning_rate_that_changes_between_replays() -> None:
    params, method, lr = ready("LAMB")
    twins, twin, twin_lr = ready("LAMB")
    warm_up(method.step)
    warm_up(twin.step)
    graph = capture(method.step)
    for step, rate in enumerate((0.01, 0.0, 0.05, 0.002)):
        before = {name: p.detach().clone() for name, p in params.items()}
        lr.fill_(rate)
        twin_lr.fill_(rate)
        replay(graph, params, step)
        eager(twin, twins, step)
        for name, p in params.items():
            assert torch.equal(p, before[name]) == (rate == 0.0), f"{name} at lr = {rate}"
    assert_same(numbers(params, method), numbers(twins, twin))


def test_a_replay_is_held_back_by_what_a_scaler_finds() -> None:
    """As GradScaler does, without its calls: ``grad_scale`` and ``found_inf`` are tensors that stay where they are."""
    ends = []
    for replays in (True, False):
        params, method, _ = ready("LAMB")
        method.grad_scale = torch.full((), 4.0, device=DEVICE)
        method.found_inf = torch.zeros((), device=DEVICE)
        set_gradients(params, 0, 4.0)
        warm_up(method.step)
        graph = capture(method.step) if replays else None
        for step, (found, scale) in enumerate(((0.0, 4.0), (1.0, 4.0), (0.0, 0.5), (2.0, 4.0), (0.0, 4.0))):
            method.found_inf.fill_(found)
            method.grad_scale.fill_(scale)
            before = numbers(params, method)
            if graph is None:
                eager(method, params, step, scale)
            else:
                replay(graph, params, step, scale)
            if found:
                assert_same(numbers(params, method), before)
            else:
                after = numbers(params, method)
                assert all(bool((after[name]["step"] == before[name]["step"] + 1).all()) for name in params)
        ends.append(numbers(params, method))
    assert_same(*ends)


def network() -> tuple[nn.Module, lp.LAMB]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8)).to(DEVICE)
    lr = torch.tensor(0.01, device=DEVICE)
    return model, lp.LAMB(model.parameters(), lr=lr, capturable=True, backend="triton")


def test_a_graph_of_forward_backward_and_step() -> None:
    """Gradients lie in the graph's own memory, where no eager step has seen them."""
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(16, 32, generator=generator).to(DEVICE) for _ in range(12)]
    weights = []
    for replays in (True, False):
        model, optimizer = network()
        x = batches[0].clone()

        def iteration(model: nn.Module = model, optimizer: lp.LAMB = optimizer, x: Tensor = x) -> None:
            optimizer.zero_grad(set_to_none=True)
            (model(x) - x[:, :8]).square().mean().backward()
            optimizer.step()

        warm_up(iteration, 3)
        optimizer.zero_grad(set_to_none=True)
        graph = capture(iteration) if replays else None
        for batch in batches:
            x.copy_(batch)
            if graph is None:
                iteration()
            else:
                graph.replay()
        weights.append([p.detach().clone() for p in model.parameters()])
        assert all(float(state["step"]) == 15 for state in optimizer.state.values())
    for got, expected in zip(*weights, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 0], ids=["after steps", "as the first step"])
def test_a_capture_that_is_refused_changes_nothing(steps: int) -> None:
    """Without capturable, or before any eager step, a capture is an error, and the optimizer goes on."""
    options: dict[str, Any] = {"capturable": steps == 0}
    ends = []
    for tries in (True, False):
        params, method, _ = ready("LAMB", **options)
        for step in range(steps):
            eager(method, params, step)
        if tries:
            with pytest.raises(RuntimeError, match="capturable=True" if steps else "before the capture"):
                capture(method.step)
            torch.cuda.synchronize()
        for step in range(3):
            eager(method, params, step)
        ends.append(numbers(params, method))
        assert all(bool((state["step"] == steps + 3).all()) for state in method.state.values())
    assert_same(*ends)


def test_a_graph_outlives_the_plan_of_its_step() -> None:
    """An eager step with other gradients makes other tables; the graph has kept the memory of its own."""
    ends = []
    for replays in (True, False):
        params, method, _ = ready("LAMB")
        warm_up(method.step)
        graph = capture(method.step) if replays else None
        for step in range(6):
            set_gradients(params, step)
            if step in (2, 4):
                left_out, params["wide"].grad = params["wide"].grad, None
                method.step()
                params["wide"].grad = left_out
                gc.collect()
                # What has been let go of is written over.
                junk = [torch.full((size,), torch.nan, device=DEVICE) for size in (16, 300, 5000) for _ in range(50)]
                del junk
            elif graph is None:
                method.step()
            else:
                graph.replay()
        found = numbers(params, method)
        assert float(found["wide"]["step"]) == 6 and float(found["long"]["step"]) == 8
        ends.append(found)
    assert_same(*ends)


def test_two_graphs_of_one_optimizer() -> None:
    """Each has the gradients of its own capture: the second one's lie elsewhere."""
    params, method, _ = ready("LAMB")
    twins, twin, _ = ready("LAMB")
    warm_up(method.step)
    warm_up(twin.step)
    first = capture(method.step)
    grads = {name: p.grad for name, p in params.items()}
    for p in params.values():
        p.grad = torch.empty_like(p)
    eager(method, params, 0)
    second = capture(method.step)
    for step, graph in enumerate((second, first, second, first)):
        for name, p in params.items():
            p.grad, grads[name] = (grads[name], p.grad) if step else (p.grad, grads[name])
        replay(graph, params, step)
    for step in (0, 0, 1, 2, 3):
        eager(twin, twins, step)
    assert_same(numbers(params, method), numbers(twins, twin))
