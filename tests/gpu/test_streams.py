"""Streams, devices, and races: steps keep the order of their stream, and give the same bits from run to run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fused.cases import (
    LARGE,
    Shapes,
    assert_agree,
    copies,
    optimizer,
    outcome,
    reference_forbidden,
    train,
    weights,
)
from tests.gpu.common import (
    DEVICE,
    made,
    main,
    make,
    needs_gpu,
    needs_two_gpus,
    numbers,
    prints_done,
    set_gradients,
    to_host,
)
from tests.methods import assert_same
from torch import Tensor

import layerpace as lp

pytestmark = needs_gpu

SHAPES: Shapes = {**LARGE, "vector": (17,), "small": (5, 3)}
A_WHILE = 100_000_000  # cycles: some 50 ms
RUNS = 300


def late_step(params: dict[str, Tensor], method: Any, values: dict[str, Tensor], stream: torch.cuda.Stream) -> None:
    """On a stream: wait a while, write the gradients, step."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(A_WHILE)
        for name, p in params.items():
            assert p.grad is not None
            p.grad.copy_(values[name])
        method.step()
    torch.cuda.current_stream().wait_stream(stream)


def kept_gradients(params: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """The gradients of a step in tensors of their own; those of the parameters become nan."""
    set_gradients(params, step)
    found = {}
    for name, p in params.items():
        assert p.grad is not None
        found[name] = p.grad.clone()
        p.grad.fill_(torch.nan)
    return found


@main
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
def test_a_step_keeps_the_order_of_its_stream(name: str, first: bool) -> None:
    """A gradient that is written late on the stream is seen; a step elsewhere would see nan."""
    ends = []
    for late in (True, False):
        params = made(SHAPES)
        method = make(name, params, max_grad_norm=3.0)
        if not first:
            method.step()
        for step in (1, 2):
            if late:
                late_step(params, method, kept_gradients(params, step), torch.cuda.Stream())
            else:
                set_gradients(params, step)
                method.step()
        ends.append(numbers(params, method))
    assert all(bool(x["weight"].isfinite().all()) for x in ends[0].values())
    assert_same(*ends)


def test_two_optimizers_on_two_streams() -> None:
    pairs = []
    for seed in (0, 1):
        params = made(SHAPES, seed=seed)
        pairs.append((params, make("LAMB", params), torch.cuda.Stream()))
    for step in range(10):
        values = [kept_gradients(params, step + seed) for seed, (params, _, _) in enumerate(pairs)]
        for (params, method, stream), grads in zip(pairs, values, strict=True):
            stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream), torch.no_grad():
                for name, p in params.items():
                    assert p.grad is not None
                    p.grad.copy_(grads[name])
                method.step()
        for _, _, stream in pairs:
            torch.cuda.current_stream().wait_stream(stream)
    for seed, (params, method, _) in enumerate(pairs):
        twins = made(SHAPES, seed=seed)
        twin = make("LAMB", twins)
        for step in range(10):
            set_gradients(twins, step + seed)
            twin.step()
        assert_same(numbers(params, method), numbers(twins, twin))


@needs_two_gpus
@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip", "max_grad_norm": 1.0}], ids=["plain", "guarded"])
def test_a_device_that_is_not_the_current_one(options: dict[str, Any]) -> None:
    results = []
    for backend, device in (("reference", "cpu"), ("triton", "cuda:1")):
        params = weights(SHAPES, torch.float32, device=device)
        start = copies(params)
        method = optimizer(backend, params, lp.directions.Adam(), "trust ratio", **options)
        train(method, params, 3)
        results.append(to_host(outcome(start, params, method)))
    assert torch.cuda.current_device() == 0
    assert_agree(results[1], results[0])


@pytest.mark.parametrize(
    "devices",
    [pytest.param(("cuda:0", "cuda:1"), marks=needs_two_gpus), ("cpu", "cuda:0")],
    ids=["GPUs", "CPU and GPU"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"max_grad_norm": 1.0}, {"nonfinite": "skip", "max_grad_norm": 1.0}],
    ids=["plain", "clipped", "guarded"],
)
def test_two_devices_in_one_optimizer(devices: tuple[str, str], options: dict[str, Any]) -> None:
    """Gradients are clipped by their norm over both."""
    results = []
    for there in (False, True):
        params = weights(SHAPES, torch.float32)
        if there:
            placed = {name: p.detach().to(devices[k % 2]) for k, (name, p) in enumerate(params.items())}
            params = {name: p.requires_grad_() for name, p in placed.items()}
        start = copies(params)
        method = optimizer("auto" if there else "reference", params, lp.directions.Adam(), "trust ratio", **options)
        train(method, params, 3)
        if there:
            assert {str(p.device) for p in params.values()} == set(devices)
        results.append(to_host(outcome(start, params, method)))
    assert_agree(results[1], results[0])


@main
def test_the_same_bits_from_run_to_run(name: str) -> None:
    """While another stream keeps the device busy, so that programs run in another order."""
    noise, other = torch.randn(1024, 1024, device=DEVICE), torch.cuda.Stream()
    ends = []
    for busy in range(5):
        params = made(SHAPES)
        with reference_forbidden():
            method = make(name, params, max_grad_norm=3.0)
            for step in range(3):
                other.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(other):
                    for _ in range(10 * busy):
                        noise @ noise
                set_gradients(params, step)
                method.step()
        ends.append(numbers(params, method))
    torch.cuda.synchronize()
    for end in ends[1:]:
        assert_same(end, ends[0])


def test_counting_on_the_device_is_in_order() -> None:
    """Counts are read and written by the same launch: all layers see the number of their step, in each of many runs.

    At the first steps another number would change the bias correction by half.
    """
    shapes = {f"layer {k}": (3, 2) for k in range(640)}
    params = made(shapes)
    method = make("Adam", params, capturable=True)
    on_host = made(shapes)
    expected = make("Adam", on_host)
    start = [p.detach().clone() for p in params.values()]
    for _ in range(2):
        expected.step()
    method.step()
    changes = [x for state in method.state.values() for x in state.values()]
    right = torch.stack(list(on_host.values()))
    for run in range(RUNS):
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in params.values()], start)
            torch._foreach_zero_(changes)
        for _ in range(2):
            method.step()
        wrong = (torch.stack(list(params.values())) != right).flatten(1).any(1)
        assert not wrong.any(), f"{int(wrong.sum())} layers in run {run}"


STRESS = """
import math, torch
import layerpace as lp
torch.manual_seed(0)
sizes = [int(math.exp(x)) for x in (torch.rand({layers}) * math.log({largest})).tolist()]
shapes = [(n, 1) if k % 3 else (n,) for k, n in enumerate(sizes)]
DEVICE, STEPS = {device!r}, {steps}
ours = [torch.randn(s, device=DEVICE).requires_grad_() for s in shapes]
theirs = [p.detach().clone().requires_grad_() for p in ours]
start = [p.detach().clone() for p in ours]
methods = [lp.LAMB(ps, lr=0.01, weight_decay=0.01, max_grad_norm=1.0, backend=b)
           for ps, b in ((ours, "triton"), (theirs, "reference"))]
for step in range(1, STEPS + 1):
    for p, q in zip(ours, theirs):
        p.grad = q.grad = torch.randn_like(p) * (1 + step % 7)
    for method in methods:
        method.step()
    if step % 50 == 0 or step == STEPS:
        for k, (p, q, first) in enumerate(zip(ours, theirs, start)):
            error = float((p.detach() - q.detach()).abs().max())
            moved = float((q.detach() - first).abs().max())
            assert moved > 0, f"layer {{k}} did not move"
            assert error <= 1e-4 * float(q.detach().abs().max()), (step, k, sizes[k], error)
print("done")
"""


def test_two_hundred_steps_of_three_hundred_layers() -> None:
    """In a process of its own: programs that wait for each other forever end there."""
    prints_done(STRESS.format(device=DEVICE, steps=200, layers=300, largest=3e6), timeout=120)
