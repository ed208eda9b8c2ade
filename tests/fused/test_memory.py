"""What the fused step holds on to, and corners of its arithmetic that small problems do not reach."""

from __future__ import annotations

import gc
import importlib
import weakref

import pytest
import torch
from tests.fused import FUSED, needs_kernels
from tests.fused.processes import program

import layerpace as lp

pytestmark = needs_kernels


def test_a_model_in_a_cycle_with_its_optimizer_is_collected() -> None:
    p = torch.ones(3, 2).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = lp.LAMB([p], backend=FUSED)
    optimizer.step()
    p.optimizer = optimizer  # type: ignore[attr-defined]
    gone = weakref.ref(optimizer)
    del p, optimizer
    gc.collect()
    assert gone() is None


def test_gradients_are_let_go_of_after_a_step() -> None:
    p = torch.ones(3, 2).requires_grad_()
    optimizer = lp.LAMB([p], backend=FUSED)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        gone = weakref.ref(p.grad)
        optimizer.step()
        p.grad = None
        assert gone() is None


@pytest.mark.parametrize(
    "direction",
    [
        lp.directions.EMAMomentum(beta=0.0),
        lp.directions.AdaMax(betas=(0.0, 0.9)),
        lp.directions.NAdam(betas=(0.0, 0.9)),
        lp.directions.RAdam(betas=(0.0, 0.9)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_an_average_that_forgets_at_once_keeps_a_small_gradient(direction: lp.directions.Direction) -> None:
    """After 1e5 the difference to 1e-4 has none of its digits left."""
    weights = []
    for backend in ("reference", FUSED):
        p = torch.zeros(20, requires_grad=True)
        optimizer = lp.Layerwise([p], direction=direction, rule="identity", lr=1.0, backend=backend)
        for g in (1e5, 1e-4):
            p.data.zero_()  # so that the second displacement is seen alone
            p.grad = torch.full_like(p, g)
            optimizer.step()
        weights.append(p.detach().clone())
    assert (weights[0] != 0).all()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=0)


class Own(torch.nn.Parameter):
    pass


def test_one_odd_tensor_leaves_the_others_their_kernels() -> None:
    plain = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(3)]
    odd = Own(torch.ones(4, 3))
    for p in (*plain, odd):
        p.grad = torch.ones_like(p)
    optimizer = lp.LAMB([*plain, odd], backend=FUSED)
    optimizer.step()
    works = optimizer._cache.plan.parts[0].works
    assert sorted(len(work.params) for work in works) == [1, 3]
    torch.testing.assert_close(odd.detach(), plain[0].detach(), rtol=1e-6, atol=0)


def test_a_gradient_in_another_weights_memory_is_read_before_it_is_written() -> None:
    outcomes = []
    for backend in ("reference", FUSED):
        a, b = (torch.full((50, 3), x, requires_grad=True) for x in (1.0, 2.0))
        a.grad, b.grad = torch.ones(50, 3), a.detach()
        lp.Layerwise([a, b], direction="sgd", rule="identity", lr=0.5, backend=backend).step()
        outcomes.append((a.detach(), b.detach()))
    for x, y in zip(*outcomes, strict=True):
        assert torch.equal(x, y)


FORK = """
import os, torch
import layerpace as lp
torch.set_num_threads(2)
p = torch.ones(100, 100).requires_grad_()
p.grad = torch.ones_like(p)
(torch.ones(2_000_000) + 1).sum()  # torch's threads are there, and no optimizer has stepped
pid = os.fork()
if pid == 0:
    lp.LAMB([p], backend="cpu").step()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("done")
"""


def test_a_child_of_a_parent_that_never_stepped() -> None:
    """torch's own operations with several threads would hang there; the kernels must not."""
    assert program(FORK)[-1] == "done"


def test_tensors_are_described_without_the_exchange_interface_too() -> None:
    """torch before 2.10 has none: the same steps, and the same changes are noticed."""
    module = importlib.import_module("layerpace.engine.backends.cpu._native")
    outcomes = []
    for interface in (True, False):
        module.use_exchange_api(interface)
        try:
            generator = torch.Generator().manual_seed(0)
            params = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((40, 30), (7,), (2, 3, 4))]
            optimizer = lp.LAMB(params, lr=0.02, backend=FUSED)
            for step in range(6):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator)
                if step == 2:
                    params[0].data = params[0].data.clone()
                if step == 3:
                    optimizer.state[params[1]]["exp_avg"] = torch.zeros(7)
                if step == 4:
                    optimizer.state[params[0]]["exp_avg_sq"].data = torch.ones(40, 30)
                optimizer.step()
            assert all(work.backend.__name__.endswith("cpu") for work in optimizer._cache.plan.parts[0].works)
            outcomes.append([p.detach() for p in params])
        finally:
            module.use_exchange_api(True)
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)
