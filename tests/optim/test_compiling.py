"""`torch.compile` around optimizers: a step is one call that it does not look into, with the numbers of eager steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.methods import METHODS, NATIVE, Problem, assert_same, snapshot
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler

import layerpace as lp


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """A compiler that knows nothing yet, and may compile nothing twice."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def test_compiled_steps_of_every_method_are_the_eager_ones() -> None:
    """The step count and the rate change from call to call, which a compiler might take for constants."""
    for name, make in METHODS.items():
        torch._dynamo.reset()
        a, b = Problem(), Problem()
        eager, other = make(a.params), make(b.params)
        graphs = CompileCounter()
        compiled = torch.compile(other.step, backend=graphs)
        for step in range(4):
            for problem, optimizer, move in ((a, eager, eager.step), (b, other, compiled)):
                problem.set_gradients(step)
                optimizer.param_groups[0]["lr"] *= 0.9
                move()
        assert_same(snapshot(other), snapshot(eager), name)
        assert graphs.frame_count == 0, name


def _scheduled(rate: Callable[[int], float]) -> Callable[[Optimizer], LRScheduler]:
    return lambda optimizer: LambdaLR(optimizer, rate)


def _cycling(optimizer: Optimizer) -> LRScheduler:
    return CyclicLR(optimizer, 0.01, 0.05, step_size_up=7, base_momentum=0.5, max_momentum=0.95)


CASES: dict[str, tuple[Callable[[Any], Optimizer], Callable[[Optimizer], LRScheduler]]] = {
    "a number": (lambda p: lp.LAMB(p, lr=0.02), _scheduled(lambda t: 1 / (1 + t))),
    "a tensor": (lambda p: lp.LAMB(p, lr=torch.tensor(0.02)), _scheduled(lambda t: 1 / (1 + t))),
    "skip": (lambda p: lp.LAMB(p, lr=0.02, nonfinite="skip"), _scheduled(lambda t: 0.9**t)),
    "momentum": (lambda p: lp.LARS(p, lr=0.02), _cycling),
    "wrap": (lambda p: lp.wrap(Adam(p, lr=torch.tensor(0.02)), "rotation"), _scheduled(lambda t: 0.9**t)),
}


def _train(case: str, compiles: str) -> tuple[Any, int, int]:
    """50 steps of a small network -> what they led to, what hooks counted, and the number of graphs."""
    make, schedule = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    inputs = torch.randn(8, 4)
    optimizer = make(model.named_parameters())
    scheduler = schedule(optimizer)
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    optimizer.register_step_post_hook(count)
    graphs = CompileCounter()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(inputs).square().mean()
        value.backward()
        return value

    step = torch.compile(optimizer.step, backend=graphs) if compiles == "step" else optimizer.step

    def train() -> None:
        if compiles == "closure":
            step(loss)
        else:
            loss()
            step()

    everything = torch.compile(train, backend=graphs) if compiles in ("all", "closure") else train
    for _ in range(50):
        everything()
        scheduler.step()
    return snapshot(optimizer), calls[0], graphs.frame_count


@pytest.mark.parametrize("case", CASES)
def test_scheduled_training_is_that_without_a_compiler(case: str) -> None:
    """At most the graph of the forward pass, once, whatever a schedule writes into the groups."""
    expected, hooked, _ = _train(case, "nothing")
    for compiles, most in (("step", 0), ("all", 1), ("closure", 0)):
        torch._dynamo.reset()
        found, counted, graphs = _train(case, compiles)
        assert graphs <= most, compiles
        assert counted == hooked == 50, compiles
        assert_same(found, expected, compiles)


@pytest.mark.parametrize("make", [NATIVE["LAMB"], NATIVE["Layca"], lambda p: lp.wrap(SGD(p, lr=0.1), "rotation")])
def test_an_optimizer_made_saved_and_loaded_within_a_compiled_function(make: Any) -> None:
    def work(problem: Problem) -> Optimizer:
        optimizer = make(problem.params[:2])
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.add_param_group({"params": problem.params[2:]})
        optimizer.step()
        return optimizer  # type: ignore[no-any-return]

    a, b = Problem(), Problem()
    a.set_gradients(0)
    b.set_gradients(0)
    eager = work(a)
    graphs = CompileCounter()
    compiled = torch.compile(work, backend=graphs)(b)
    assert_same(snapshot(compiled), snapshot(eager))
    assert graphs.frame_count == 0


def test_a_compiled_step_leaves_records() -> None:
    found = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = lp.LAMB(model.parameters(), lr=0.1)
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        with lp.Monitor(model, optimizer, every=1, out=None) as monitor:
            for _ in range(2):
                model(torch.ones(1, 4)).sum().backward()
                step()
        found.append(monitor.latest())
    assert found[0] == found[1] != {}
