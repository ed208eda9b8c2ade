"""What a step reads lies in memory that it writes: the step is the reference's, with a kept plan or a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused
from tests.methods import assert_same
from torch import Tensor

import layerpace as lp
from layerpace.engine import cache as keeping
from layerpace.engine.backends import reference
from layerpace.engine.backends.cpu import native
from layerpace.engine.backends.watch import PythonWatch

pytestmark = [needs_fused, pytest.mark.usefixtures("two_threads")]

STEPS = 6


class Run:
    """Three matrices in two groups, whose betas make a bucket of each group; all of them views of one memory."""

    def __init__(self, backend: str, rows: tuple[slice, slice, slice]) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.memory = torch.randn(90, 40, generator=self.generator)
        self.params = [self.memory[part].requires_grad_() for part in rows]
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "betas": (0.8, 0.9)}]
        self.optimizer = lp.LAMB(groups, lr=0.02, weight_decay=0.01, backend=backend)

    def gradients(self) -> None:
        for p in self.params:
            p.grad = torch.randn(p.shape, generator=self.generator)


def gradient_is_a_weight(run: Run) -> None:
    run.params[0].grad = run.params[1].detach()


def gradient_of_another_bucket(run: Run) -> None:
    run.params[2].grad = run.params[0].detach()[:30]


def gradient_within_a_moment(run: Run) -> None:
    run.params[0].grad = run.optimizer.state[run.params[2]]["exp_avg"]


def moments_are_one(run: Run) -> None:
    states = run.optimizer.state
    states[run.params[0]]["exp_avg"] = states[run.params[1]]["exp_avg"]


def count_is_one(run: Run) -> None:
    states = run.optimizer.state
    states[run.params[0]]["step"] = states[run.params[1]]["step"]


APART = (slice(0, 30), slice(30, 60), slice(60, 90))
CASES: dict[str, tuple[tuple[slice, slice, slice], Callable[[Run], None] | None]] = {
    "a gradient is another weight": (APART, gradient_is_a_weight),
    "one of another bucket": (APART, gradient_of_another_bucket),
    "a gradient is a moment": (APART, gradient_within_a_moment),
    "two moments are one": (APART, moments_are_one),
    "two step counts are one": (APART, count_is_one),
    "parameters overlap in a group": ((slice(0, 30), slice(20, 50), slice(60, 90)), None),
    "parameters overlap across groups": ((slice(0, 30), slice(30, 60), slice(50, 80)), None),
}


def train(name: str, backend: str, keep: bool = True) -> Run:
    rows, change = CASES[name]
    run = Run(backend, rows)
    for step in range(STEPS):
        run.gradients()
        if change is not None and step == 3:
            change(run)
        if not keep:
            run.optimizer._cache.drop()
        run.optimizer.step()
        if step == 3 or change is None:
            plan = run.optimizer._cache.plan
            assert plan is not None
            assert all(work.backend is reference for part in plan.parts for work in part.works)
    return run


@pytest.mark.parametrize("name", CASES)
def test_the_step_is_that_of_a_new_plan_and_of_the_reference(name: str) -> None:
    kept, new = train(name, FUSED), train(name, FUSED, keep=False)
    assert_same((kept.memory, kept.optimizer.state_dict()), (new.memory, new.optimizer.state_dict()))
    if CASES[name][1] is None:  # else the steps before were the kernels'
        assert_same(kept.memory, train(name, "reference").memory)


def test_ordinary_gradients_at_new_addresses_keep_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    build = keeping.Plan

    def counted(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        return build(*arguments)

    monkeypatch.setattr(keeping, "Plan", counted)
    run, held = Run(FUSED, APART), []
    for _ in range(4):
        run.gradients()
        held.append([p.grad for p in run.params])  # so that no address comes back
        run.optimizer.step()
    assert made == 1


def _watches(compiled: Any) -> tuple[list[Tensor], list[Any]]:
    """Two buckets of one weight each, which lie in one memory, with a gap."""
    memory, moments, grads = torch.zeros(100), [torch.zeros(5, 8) for _ in range(2)], torch.zeros(2, 5, 8)
    params = [memory[:40].view(5, 8), memory[60:].view(5, 8)]
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    make = PythonWatch if compiled is None else compiled.Watch
    watches = [make([p], [g], [{"m": m}], ["m"]) for p, g, m in zip(params, grads, moments, strict=True)]
    return [memory, *params], watches


@pytest.mark.parametrize("module", ["python", "compiled"])
def test_both_watches_see_what_lies_where(module: str) -> None:
    compiled = native() if module == "compiled" else None
    (memory, first, second), watches = _watches(compiled)
    keep_apart = (PythonWatch if compiled is None else compiled).keep_apart
    begin = memory.data_ptr()
    assert keep_apart(watches, [], [])
    assert keep_apart(watches, [(begin + 160, begin + 240)], [(begin + 160, begin + 240)]) is False  # the gap, twice
    assert keep_apart(watches, [(begin + 160, begin + 240)], [])
    assert keep_apart(watches, [(begin + 156, begin + 240)], []) is False
    assert keep_apart(watches, [], [(begin + 239, begin + 241)]) is False
    assert keep_apart(watches, [], [(begin + 160, begin + 240)])
    assert all(watch.check() for watch in watches)
    for at in (0, 39, 40, 60):
        second.grad = memory[at : at + 40].view(5, 8)
        assert not watches[1].check()
    first.grad = torch.zeros(100)[7:47].view(5, 8)
    assert watches[0].check()
    first.grad = torch.zeros(9, 8)[::2]  # spread out, and of other strides
    assert not watches[0].check()
