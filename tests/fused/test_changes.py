"""Options, groups and state that change between steps: the fused step reads them anew, and equals the reference."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused
from tests.fused.cases import (
    DIRECTIONS,
    RULES,
    SMALL,
    Outcome,
    assert_agree,
    copies,
    directions,
    gradient,
    optimizer,
    outcome,
    train,
    weights,
)
from tests.methods import NATIVE, Make, assert_same, native, save_and_open, snapshot
from torch import Tensor
from torch.optim import lr_scheduler

import layerpace as lp

pytestmark = needs_fused

Params = dict[str, Tensor]
SHAPES = {name: SMALL[name] for name in ("vector", "17", "conv", "zeros", "equal")} | {"long": (40_009, 1)}
cut = {"segments": {"equal": 4}}


def both(make: Make, use: Callable[[Any, Params], None], dtype: torch.dtype = torch.float32, **options: Any) -> None:
    """Both backends are used the same way, and end alike."""
    results: list[Outcome] = []
    for backend in ("reference", FUSED):
        params = weights(SHAPES, dtype)
        start = copies(params)
        method = make(list(params.items()), backend=backend, **{**cut, **options})
        use(method, params)
        results.append(outcome(start, params, method))
    still = tuple(name for name in SHAPES if not results[0].moved(name))
    assert len(still) < 2
    assert_agree(results[1], results[0], still=still)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "linear decay": lambda method: lp.schedules.linear_decay(method, 0.2, floor=0.1),
    "exponential": lambda method: lr_scheduler.ExponentialLR(method, 0.7),
    "to zero and back": lambda method: lr_scheduler.LambdaLR(method, lambda step: float(step % 3)),
    "one cycle": lambda method: lr_scheduler.OneCycleLR(method, max_lr=0.05, total_steps=8),
    "cyclic": lambda method: lr_scheduler.CyclicLR(method, 0.001, 0.05, step_size_up=2, cycle_momentum=False),
}


@native
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_schedulers(make: Make, schedule: str) -> None:
    """OneCycleLR moves the momentum, or the first beta, of methods that have one."""

    def use(method: Any, params: Params) -> None:
        group = method.param_groups[0]
        before = group.get("momentum"), group.get("betas")
        if schedule == "one cycle" and not any(before):
            scheduler = lr_scheduler.OneCycleLR(method, max_lr=0.05, total_steps=8, cycle_momentum=False)
        else:
            scheduler = SCHEDULERS[schedule](method)
        for step in range(6):
            train(method, params, 1, first=step)
            scheduler.step()
        if schedule == "one cycle" and any(before):
            assert (group.get("momentum"), group.get("betas")) != before

    both(make, use)


@directions
def test_every_option_of_a_direction_changes_on_the_way(direction: str) -> None:
    """As a schedule of one's own may do: each number in the group is read in each step."""
    numbers = {
        "momentum": 0.3, "dampening": 0.1, "beta": 0.4, "betas": (0.6, 0.7), "eps": 1e-2, "lr_decay": 0.3, "rho": 0.5,
        "alpha": 0.6, "momentum_decay": 0.3, "threshold": 4.6, "eps_inside_sqrt": True, "grad_averaging": False,
        "bias_correction": False, "centered": True, "amsgrad": True,
    }  # fmt: skip
    for option in DIRECTIONS[direction].options().keys() & numbers.keys():
        for rule in ("identity", "trust ratio"):
            ends = []
            for change in (False, True):
                results = []
                for backend in ("reference", FUSED):
                    params = weights(SHAPES)
                    start = copies(params)
                    method = optimizer(backend, params, DIRECTIONS[direction], rule)
                    train(method, params, 2)
                    if change:
                        method.param_groups[0][option] = numbers[option]
                    train(method, params, 5 if "radam" in direction else 2, first=2)
                    results.append(outcome(start, params, method))
                assert_agree(results[1], results[0])
                ends.append(results[1].weights)
            before = DIRECTIONS[direction].options()[option]
            unread = option == "dampening" and direction == "heavy ball off"
            if before != numbers[option] and not unread:
                differs = any(not torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
                assert differs, f"{option} was not read anew"


GROUP_CHANGES: dict[str, Any] = {
    "lr": 0.003, "lr_multiplier": 0.25, "weight_decay": 0.3, "maximize": True, "momentum": 0.4,
    "lr tensor": torch.tensor(0.003),
}  # fmt: skip


@native
@pytest.mark.parametrize("key", ["lr", "lr tensor", "lr_multiplier", "weight_decay", "maximize", "momentum"])
def test_a_group_is_changed_by_hand(make: Make, key: str) -> None:
    def use(method: Any, params: Params) -> None:
        train(method, params, 2)
        name = key.removesuffix(" tensor")
        if name in method.param_groups[0] and (name != "momentum" or method.param_groups[0][name]):
            method.param_groups[0][name] = copy.deepcopy(GROUP_CHANGES[key])  # a tensor is changed below
        train(method, params, 1, first=2)
        if key == "lr tensor":
            method.param_groups[0]["lr"].mul_(3)  # the same tensor, another number
        train(method, params, 2, first=3)

    both(make, use)


@native
def test_a_group_joins_on_the_way(make: Make) -> None:
    results = []
    for backend in ("reference", FUSED):
        params = weights(SHAPES)
        start, items = copies(params), list(params.items())
        method = make(items[:3], backend=backend)
        train(method, params, 2)
        method.add_param_group({"params": items[3:], "lr": 0.01, "segments": {"equal": 4}})
        train(method, params, 3, first=2)
        results.append(outcome(start, params, method))
    still = tuple(name for name in SHAPES if not results[0].moved(name))
    assert_agree(results[1], results[0], still=still)


@native
def test_frozen_parameters_thaw(make: Make) -> None:
    def use(method: Any, params: Params) -> None:
        frozen = params["long"]
        frozen.requires_grad_(False)
        for step in range(5):
            if step == 3:
                frozen.requires_grad_(True)
            train(method, params, 1, first=step, absent=lambda name, at: params[name] is frozen and at < 3)

    both(make, use)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda method: pickle.loads(pickle.dumps(method)),
    "torch.save": lambda method: method,
}


@native
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_copies_go_on_apart(make: Make, how: str, dtype: torch.dtype) -> None:
    """A copy takes the next steps by itself, to the bit those of an original that was not copied."""
    params = weights(SHAPES, dtype)
    method = make(list(params.items()), backend=FUSED, **cut)
    train(method, params, 2)
    if how == "torch.save":
        others = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        other = make(list(others.items()), backend=FUSED, **cut)
        train(other, others, 1)  # it has taken a step of its own, whose state the load replaces
        with torch.no_grad():
            for name, p in params.items():
                others[name].copy_(p)
        other.load_state_dict(save_and_open(method.state_dict()))
    else:
        other = COPIES[how](method)
        members = [p for group in other.param_groups for p in group["params"]]
        others = dict(zip(params, members, strict=True))
    before = snapshot(other)
    train(method, params, 2, first=2)
    assert_same(snapshot(other), before)
    train(other, others, 2, first=2)
    assert_same(snapshot(other), snapshot(method))


@native
def test_loading_goes_back(make: Make) -> None:
    """An optimizer that goes back to an earlier state takes the same steps again."""
    params = weights(SHAPES, torch.float32)
    method = make(list(params.items()), backend=FUSED, **cut)
    train(method, params, 2)
    kept, saved = copies(params), copy.deepcopy(method.state_dict())
    train(method, params, 3, first=2)
    expected = snapshot(method)
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(kept[name])
    method.load_state_dict(saved)
    train(method, params, 3, first=2)
    assert_same(snapshot(method), expected)


@native
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(make: Make, unscale: bool) -> None:
    """Gradients that overflow in the first and in the third step: the steps are skipped as wholes."""

    def use(method: Any, params: Params) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        for step in range(6):
            scale = scaler.scale(torch.ones(()))
            for name, p in params.items():
                g = gradient(name, p, step) * scale
                p.grad = torch.full_like(g, math.inf) if step in (0, 2) and name == "17" else g
            if unscale:
                scaler.unscale_(method)
            before = copies(params)
            scaler.step(method)
            if step in (0, 2):
                assert_same(copies(params), before)
            scaler.update()

    both(make, use)


@native
def test_nonfinite_raises_before_anything_changes(make: Make) -> None:
    params = weights(SHAPES, torch.float32)
    method = make(list(params.items()), backend=FUSED, nonfinite="raise", **cut)
    train(method, params, 2)
    before = snapshot(method)
    for name, p in params.items():
        p.grad = gradient(name, p, 2)
    bad = params["long"].grad
    assert bad is not None
    bad[-1] = math.nan
    with pytest.raises(FloatingPointError, match="long"):
        method.step()
    assert_same(snapshot(method), before)


@native
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_nonfinite_layers_are_held_back(make: Make, bad: float, dtype: torch.dtype) -> None:
    def use(method: Any, params: Params) -> None:
        for step in range(4):
            for name, p in params.items():
                p.grad = gradient(name, p, step)
                if step in (0, 2) and name in ("long", "equal"):
                    p.grad[3] = bad
            before = snapshot(method)[1]["state"]
            method.step()
            if step == 2:
                index = list(params).index("long")
                assert_same(snapshot(method)[1]["state"][index], before[index])

    both(make, use, dtype, nonfinite="skip")


@native
def test_nonfinite_propagates_within_its_layer(make: Make) -> None:
    params = weights(SHAPES, torch.float32)
    method = make(list(params.items()), backend=FUSED)
    for name, p in params.items():
        p.grad = gradient(name, p, 0)
    bad = params["long"].grad
    assert bad is not None
    bad[4097] = math.nan
    method.step()
    assert bool(params["long"].isnan().any())
    assert all(bool(torch.isfinite(p).all()) for name, p in params.items() if name != "long")


@native
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_grad_norm(make: Make, max_norm: float, dtype: torch.dtype) -> None:
    both(make, lambda method, params: train(method, params, 3), dtype, max_grad_norm=max_norm)


@pytest.mark.parametrize("name", ["LAMB", "PercentDelta", "Layca"])
def test_a_phantom_step_changes_nothing(name: str) -> None:
    """A step with lr = 0 and zero gradients, as torch.distributed.checkpoint takes one to create the state."""

    def use(method: Any, params: Params) -> None:
        group = method.param_groups[0]
        lr, group["lr"] = group["lr"], 0.0
        before = copies(params)
        for p in params.values():
            p.grad = torch.zeros_like(p)
        method.step()
        assert_same(copies(params), before)
        group["lr"] = lr
        train(method, params, 3)

    both(NATIVE[name], use)


@pytest.mark.parametrize("rule", ["trust ratio", "rotation"])
def test_a_scheduled_weight_decay(rule: str) -> None:
    """Coupled and decoupled decay that grows in each step."""
    results = []
    for backend in ("reference", FUSED):
        params = weights(SHAPES)
        start = copies(params)
        method = optimizer(backend, params, DIRECTIONS["adam"], RULES[rule][0], lr=RULES[rule][1])
        for step in range(4):
            method.param_groups[0]["weight_decay"] = 0.04 * step
            train(method, params, 1, first=step)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])
