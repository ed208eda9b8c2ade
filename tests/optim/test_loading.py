"""What is loaded goes to the parameter of its name, and what is damaged is refused before anything changes."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import NAMES, SHAPES, Problem, assert_differ, assert_same, save_and_open, snapshot
from torch import Tensor

import layerpace as lp

MAKE: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "LAMB": lambda params: lp.LAMB(params, lr=0.02, exclude="*.bias"),
    "Layca": lambda params: lp.Layca(params, lr=0.02, exclude="*.bias"),
    "wrapped": lambda params: lp.wrap(torch.optim.Adam(params, lr=0.02), "rotation", exclude="*.bias"),
}
makes = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def trained(make: Callable[..., Any], named: Any = None, steps: int = 2) -> tuple[Problem, Any]:
    problem = Problem()
    optimizer = make(problem.named if named is None else named(problem.named))
    problem.train(optimizer, steps)
    return problem, optimizer


def state_by_name(optimizer: Any) -> dict[str, Any]:
    pairs = [(n, p) for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)]
    return {name: optimizer.state[param] for name, param in pairs}


ORDERS: dict[str, Callable[[Any], Any]] = {
    "another order": lambda named: [named[k] for k in (2, 3, 0, 1)],
    "groups in another order": lambda named: [{"params": named[2:]}, {"params": named[:2]}],
    "parts of wrappers": lambda named: [(f"module._orig_mod.{n}", p) for n, p in reversed(named)],
}


@makes
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_state_goes_by_name(make: Callable[..., Any], order: Callable[[Any], Any]) -> None:
    grouped = order is ORDERS["groups in another order"]
    saved_by = (lambda named: [{"params": named[:2]}, {"params": named[2:]}]) if grouped else None
    problem, donor = trained(make, saved_by)
    if saved_by is not None:
        donor.param_groups[0]["note"], donor.param_groups[1]["note"] = "first", "second"
    other = Problem()
    other.params = [p.detach().clone().requires_grad_() for p in problem.params]
    optimizer = make(order(other.named))
    names = [list(group["param_names"]) for group in optimizer.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(save_and_open(donor.state_dict()))
    assert [group["param_names"] for group in optimizer.param_groups] == names
    if saved_by is not None:
        assert [group["note"] for group in optimizer.param_groups] == ["second", "first"]
    bare = {name.removeprefix("module._orig_mod."): state for name, state in state_by_name(optimizer).items()}
    assert_same(bare, state_by_name(donor))
    problem.train(donor, 2, first=2)
    other.train(optimizer, 2, first=2)
    assert_same(other.weights(), problem.weights())


@makes
def test_names_that_differ_are_said_and_stay(make: Callable[..., Any]) -> None:
    _, donor = trained(make, lambda named: [(f"old.{name}", p) for name, p in named])
    other = Problem()
    optimizer = make(other.named)
    with pytest.warns(UserWarning, match=r"'old\.first\.weight' where 'first\.weight' is here.*by place"):
        optimizer.load_state_dict(donor.state_dict())
    assert optimizer.param_groups[0]["param_names"] == list(NAMES)
    assert_same(list(state_by_name(optimizer).values()), list(state_by_name(donor).values()))


@makes
def test_exclusion_stays_with_its_tensors_after_loading(make: Callable[..., Any]) -> None:
    """accelerate exchanges parameters later, and they are described by the names that the groups have then."""
    _, donor = trained(make, lambda named: [named[k] for k in (1, 0, 2, 3)])
    optimizer: Any = make(Problem().named)
    optimizer.load_state_dict(donor.state_dict())
    for place, param in enumerate(optimizer.param_groups[0]["params"]):
        optimizer.param_groups[0]["params"][place] = param.detach().clone().requires_grad_()
    optimizer.param_groups[0]["params"].append(torch.ones(2, 2, requires_grad=True))
    optimizer.param_groups[0]["param_names"].append("new.bias")
    assert [cut.name for cut in optimizer.layers.values() if cut.excluded] == ["first.bias", "new.bias"]


def test_names_that_only_one_side_has() -> None:
    for named in (True, False):
        donor, optimizer = lp.LAMB(Problem().params), lp.LAMB(Problem().named)
        if named:
            donor, optimizer = lp.LAMB(Problem().named), lp.LAMB(Problem().params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.load_state_dict(donor.state_dict())
        assert optimizer.param_groups[0]["param_names"] == list(NAMES)  # as in torch
        assert len(optimizer.layers) == len(NAMES)


def test_groups_of_other_members_are_said() -> None:
    two = lambda named: [{"params": named[:2]}, {"params": named[2:]}]  # noqa: E731
    mixed = lambda named: [{"params": named[::2]}, {"params": named[1::2]}]  # noqa: E731
    make = lambda groups: lp.LAMB(groups, lr=0.02)  # noqa: E731
    _, donor = trained(make, two)
    _, optimizer = trained(make, mixed, steps=0)
    with pytest.warns(UserWarning, match="options of groups are loaded by place"):
        optimizer.load_state_dict(donor.state_dict())
    assert_same(state_by_name(optimizer), state_by_name(donor))


# Damage


def _entry(state: dict[str, Any], key: str) -> dict[str, Any]:
    return next(entry for entry in state["state"].values() if key in entry and (key == "step" or entry[key].ndim == 2))


def put(key: str, value: Callable[[Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def damage(state: dict[str, Any]) -> None:
        entry = _entry(state, key)
        entry[key] = value(entry[key])

    return damage


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a sparse moment": put("exp_avg", Tensor.to_sparse),
    "a moment of whole numbers": put("exp_avg", Tensor.long),
    "a complex moment": put("exp_avg", lambda x: x.to(torch.complex64)),
    "a moment without values": put("exp_avg", lambda x: x.to("meta")),
    "a list for a moment": put("exp_avg", Tensor.tolist),
    "a negative second moment": put("exp_avg_sq", lambda x: -x),
    "a negative entry in the last state": lambda s: s["state"][3].update(exp_avg_sq=torch.tensor(-1e-30)),
    "a count of -1": put("step", lambda x: torch.tensor(-1.0)),
    "a count of nan": put("step", lambda x: torch.tensor(math.nan)),
    "a count of inf": put("step", lambda x: math.inf),
    "a half": put("step", lambda x: 1.5),
    "a text for a count": put("step", lambda x: "3"),
    "none for a count": put("step", lambda x: None),
    "a sparse count": put("step", lambda x: torch.ones(1).to_sparse()),
    "a list for an entry": lambda s: s["state"].update({0: [1, 2]}),
    "a list for the state": lambda s: s.update(state=[]),
    "groups in a dict": lambda s: s.update(param_groups={}),
    "a number for a group": lambda s: s.update(param_groups=[3]),
    "a group without parameters": lambda s: s["param_groups"][0].pop("params"),
    "a parameter twice": lambda s: s["param_groups"][0].update(params=[0, 1, 2, 2]),
    "parameters that are lists": lambda s: s["param_groups"][0].update(params=[[0], [1], [2], [3]]),
    "betas out of range": lambda s: s["param_groups"][0].update(betas=(0.9, 2.0)),
    "betas of text": lambda s: s["param_groups"][0].update(betas="ab"),
    "a rate of several": lambda s: s["param_groups"][0].update(lr=torch.ones(2)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_changes_nothing(damage: Callable[[dict[str, Any]], None]) -> None:
    make = lambda params: lp.LAMB(params, lr=0.02)  # noqa: E731
    _, donor = trained(make, steps=3)
    problem, optimizer = trained(make)
    state = copy.deepcopy(donor.state_dict())
    state["param_groups"][0]["weight_decay"] = 0.5
    damage(state)
    before, objects = snapshot(optimizer), (optimizer.state, optimizer.param_groups)
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict(state)
    assert str(error.value)
    assert_same(snapshot(optimizer), before)
    assert (optimizer.state, optimizer.param_groups) == objects
    problem.train(optimizer, 1)


def test_the_error_names_tensor_and_value() -> None:
    make = lambda params: lp.LAMB(params, lr=0.02)  # noqa: E731
    _, optimizer = trained(make)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg_sq"][0, 0] = -2.0
    with pytest.raises(ValueError, match=r"exp_avg_sq of first\.weight in parameter group 0 must not be.*-2\.0"):
        optimizer.load_state_dict(state)
    state["state"][0]["exp_avg_sq"][0, 0] = math.nan  # of a run that is ruined: it may be looked at
    optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (lambda ps: lp.Layca(ps, lr=0.02), "initial_norm", (-1.0, math.nan)),
        (lambda ps: lp.LAMB(ps, lr=0.02, trust_clip="running"), "clip_step", (-1.0, math.nan)),
        (lambda ps: lp.LAMB(ps, lr=0.02, trust_clip="running"), "ratio_deviation", (-1.0,)),
        (lambda ps: lp.Layerwise(ps, direction="adagrad", rule="identity", lr=0.1), "sum", (-1.0,)),
        (lambda ps: lp.Layerwise(ps, direction="adamax", rule="identity", lr=0.1), "exp_inf", (-1.0,)),
        (lambda ps: lp.Layerwise(ps, direction="nadam", rule="identity", lr=0.1), "mu_product", (-1.0,)),
        (lambda ps: lp.Layerwise(ps, direction="rmsprop", rule="identity", lr=0.1), "square_avg", (-1.0,)),
        (lambda ps: lp.Layerwise(ps, direction="adadelta", rule="identity", lr=0.1), "acc_delta", (-1.0,)),
        (lambda ps: lp.wrap(torch.optim.SGD(ps, lr=0.1), "rotation"), "initial_norm", (-1.0, math.nan)),
        (lambda ps: lp.wrap(torch.optim.SGD(ps, lr=0.1), "rotation"), "rule_step", (-1.0, math.nan)),
    ],
)
def test_sizes_and_counts_of_every_kind_are_looked_at(make: Any, name: str, values: tuple[float, ...]) -> None:
    _, optimizer = trained(make)
    for value in values:
        state = copy.deepcopy(optimizer.state_dict())
        entry = next(entry for entry in state["state"].values() if name in entry)
        entry[name] = torch.full_like(entry[name], value)
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=f"{'step' if name == 'rule_step' else name} of .*must"):
            optimizer.load_state_dict(state)
        assert_same(snapshot(optimizer), before)


def test_a_lack_of_memory_leaves_the_old_state(monkeypatch: pytest.MonkeyPatch) -> None:
    make = lambda params: lp.LAMB(params, lr=0.02)  # noqa: E731
    _, donor = trained(make, steps=3)
    problem, optimizer = trained(make)
    before = snapshot(optimizer)

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("layerpace.optim.base.cast_state", full)
    with pytest.raises(MemoryError):
        optimizer.load_state_dict(donor.state_dict())
    assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 1)
    assert_differ(problem.weights()[:1], before[0][:1])
    assert len(SHAPES) == len(NAMES)


def test_keys_of_the_users_are_loaded_with_the_rest() -> None:
    """SAM keeps ``rho`` in the groups, Lookahead ``alpha``: names that other directions and rules have too."""
    own = {"rho": 0.05, "alpha": 0.5, "norm": 2, "clip": 1, "threshold": 3, "beta": 0.1, "growth": 1}
    makes: dict[Any, tuple[str, ...]] = {  # with what their rules have themselves
        lambda groups: lp.LAMB(groups): ("norm", "clip"),
        lambda groups: lp.PercentDelta(groups): (),
        lambda groups: lp.Layca(groups, lr=0.1): (),
        lambda groups: lp.Layca(groups, lr=0.1, direction="adagrad"): (),
        lambda groups: lp.Layerwise(groups, direction="radam", rule="limited_norm", lr=0.1): ("growth", "threshold"),
    }
    for make, refused in makes.items():
        keys = {key: value for key, value in own.items() if key not in refused}
        problem = Problem()
        optimizer = make([{"params": problem.params, **keys}])
        problem.train(optimizer, 1)
        saved = save_and_open(optimizer.state_dict())
        for groups in ([{"params": Problem().params}], [{"params": Problem().params, "rho": 7.0}]):
            loaded = make(groups)
            loaded.load_state_dict(saved)
            assert {key: loaded.param_groups[0][key] for key in keys} == keys
        optimizer.param_groups[0]["rho"] = "text"  # nobody reads it
        problem.train(optimizer, 1)
    for key in ("norm", "clip", "trust_clip", "coefficient"):
        with pytest.raises(TypeError, match=f"'{key}' cannot be set in parameter group 0"):
            lp.LAMB([{"params": Problem().params, key: 1}])
    with pytest.raises(TypeError, match="'growth' cannot be set"):
        lp.Layerwise([{"params": Problem().params, "growth": 1}], direction="sgd", rule="limited_norm", lr=0.1)
