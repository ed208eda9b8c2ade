"""What `wrap` makes is a torch optimizer to those who use one: groups, state, hooks, closures, checkpoints, modes."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_same
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import layerpace as lp

R = lp.rules


def test_groups_state_and_defaults_may_be_set() -> None:
    """Lightning's BaseFinetuning sets the groups when it resumes; torch's loading hands both over."""
    problem = Problem()
    wrapped = lp.wrap(Adam(problem.params, lr=0.02), R.Rotation())
    problem.train(wrapped, 1)
    groups, state = [dict(group) for group in wrapped.param_groups], defaultdict(dict, wrapped.state)
    defaults = wrapped.defaults | {"lr": 0.5}
    wrapped.param_groups, wrapped.state, wrapped.defaults = groups, state, defaults
    assert wrapped.inner.param_groups is groups and wrapped.inner.state is state
    assert wrapped.inner.defaults is wrapped.defaults is defaults
    problem.train(wrapped, 1, first=1)
    assert {float(numbers["step"]) for numbers in state.values()} == {2.0}
    wrapped.__setstate__({"state": defaultdict(dict), "param_groups": groups[:1]})
    assert not wrapped.inner.state and wrapped.inner.param_groups == groups[:1]


class WithoutSchedule(SGD):
    """Has the modes of schedule-free optimizers."""

    mode = ""

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


def test_modes_are_those_of_the_inner_optimizer() -> None:
    params = Problem().params
    moded, plain = (lp.wrap(kind(params, lr=0.1), R.TrustRatio()) for kind in (WithoutSchedule, SGD))
    for mode in ("eval", "train"):
        getattr(moded, mode)()
        assert moded.inner.mode == mode  # type: ignore[attr-defined]
        assert not hasattr(plain, mode)
    fused: Any = lp.wrap(Adam(params, fused=True), R.TrustRatio())
    assert fused.inner._step_supports_amp_scaling  # which is no flag of the whole: GradScaler unscales for it
    assert not getattr(fused, "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("scheduled", [False, True])
def test_hooks_of_all_optimizers_are_called_once(scheduled: bool) -> None:
    problem = Problem()
    inner = SGD(problem.params, lr=0.1)
    scheduler = StepLR(inner, 1) if scheduled else None
    wrapped = lp.wrap(inner, R.TrustRatio())
    calls: list[Any] = []

    def note(kind: str) -> Any:
        return lambda optimizer, args, kwargs: calls.append((kind, optimizer, problem.weights()))

    own = [wrapped.register_step_pre_hook(note("own")), inner.register_step_pre_hook(note("inner"))]
    own.append(inner.register_step_post_hook(note("inner, after")))
    everyones = [register_optimizer_step_pre_hook(note("all")), register_optimizer_step_post_hook(note("all, after"))]
    before = problem.weights()
    try:
        problem.train(wrapped, 1)
    finally:
        for handle in own + everyones:
            handle.remove()
    found = [(kind, optimizer) for kind, optimizer, _ in calls]
    expected = [("all", wrapped), ("own", wrapped), ("inner", inner), ("inner, after", inner), ("all, after", wrapped)]
    assert found == expected
    assert_same(calls[0][2], before)
    assert_same(calls[-1][2], problem.weights())
    if scheduler is not None:
        scheduler.step()  # without a warning that the optimizer has not stepped


def test_sparse_gradients_are_refused_before_anything_moves_each_time() -> None:
    for gradients_are_there in (False, True):
        model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
        wrapped = lp.wrap(SGD(model.parameters(), lr=0.1, momentum=0.9), R.Rotation())

        def loss(model: nn.Module = model) -> Tensor:
            model.zero_grad()
            value: Tensor = model(torch.tensor([1, 2])).sum()
            value.backward()
            return value

        if gradients_are_there:
            loss()
        before = copy.deepcopy(model.state_dict())
        for _ in range(3):
            with pytest.raises(RuntimeError, match="is sparse"):
                wrapped.step(loss)
            assert_same(dict(model.state_dict()), dict(before))
            assert not wrapped.state


def test_a_closure_may_replace_a_sparse_gradient() -> None:
    embedding = nn.Embedding(5, 3)
    wrapped = lp.wrap(SGD(embedding.parameters(), lr=0.1), R.Rotation())
    embedding.weight.grad = torch.eye(5, 3).to_sparse()

    def loss() -> Tensor:
        embedding.zero_grad()
        value: Tensor = embedding(torch.tensor([1, 2])).square().sum()
        value.backward()
        return value

    assert wrapped.step(loss) > 0


MADE: list[Any] = [lambda p: SGD(p, lr=0.1), lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adam(p, lr=0.1)]


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_take_the_state_there_and_back(flat: bool) -> None:
    """They refuse a parameter without state among others that have some, such as an excluded one."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    for make in MADE:
        for rule in (R.Rotation(), R.TrustRatio(), R.TrustRatio(clip=R.RunningBounds(warmup=2))):
            model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
            optimizer = lp.wrap(make(model.parameters()), rule)
            _train(model, optimizer, 3)
            other = copy.deepcopy(model)
            resumed = lp.wrap(make(other.parameters()), rule)
            saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
            set_optimizer_state_dict(other, resumed, saved, options=options)
            assert all(optimizer.state.values())  # no empty entry
            for trained, by in ((model, optimizer), (other, resumed)):
                _train(trained, by, 2)
            assert_same(list(other.parameters()), list(model.parameters()))


def _train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()


def test_a_state_that_the_inner_optimizer_refuses_leaves_the_old_one() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = lp.wrap(torch.optim.AdamW([weight], lr=0.1), lp.rules.Rotation())
    weight.grad = torch.ones(3, 2)
    optimizer.step()
    damaged = optimizer.state_dict()
    damaged["state"] = {0: {**damaged["state"][0], "step": None}}
    damaged["param_groups"][0]["lr"] = 0.5
    old = dict(optimizer.state[weight])
    with pytest.raises(TypeError):
        optimizer.load_state_dict(damaged)
    assert optimizer.state[weight].keys() == old.keys()
    assert all(optimizer.state[weight][name] is value for name, value in old.items())
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.step()
