"""State dicts, copies, pickles and checkpoints: training goes on to the bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import (
    METHODS,
    Make,
    Problem,
    assert_differ,
    assert_same,
    methods,
    model_and,
    native,
    save_and_open,
    snapshot,
    train_model,
)
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import layerpace as lp


@methods
@pytest.mark.parametrize("named", [False, True])
def test_training_resumes_to_the_bit_from_a_file(make: Make, named: bool) -> None:
    problem = Problem()
    optimizer = make(problem.named if named else problem.params)
    problem.train(optimizer, 3)
    saved = save_and_open({"optimizer": optimizer.state_dict(), "weights": problem.weights()})
    problem.train(optimizer, 3, first=3)

    fresh = Problem(seed=1)
    fresh.scales, fresh.targets = problem.scales, problem.targets
    resumed = make(fresh.named if named else fresh.params)
    with torch.no_grad():
        for p, w in zip(fresh.params, saved["weights"], strict=True):
            p.copy_(w)
    resumed.load_state_dict(saved["optimizer"])
    assert_same(resumed.state_dict(), saved["optimizer"])
    fresh.train(resumed, 3, first=3)
    assert_same(snapshot(resumed), snapshot(optimizer))


@native
def test_loading_does_not_share_or_change_what_is_loaded(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer, second = make(problem.params), make(other.params)
    problem.train(optimizer, 2)
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    second.load_state_dict(state)
    other.train(second, 2)
    assert_same(state, kept)
    assert_same(optimizer.state_dict(), kept)


@methods
def test_groups_are_loaded_too(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    optimizer.param_groups[0]["lr"] = 0.123
    other = Problem()
    loaded = make(other.params)
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.param_groups[0]["lr"] == 0.123
    problem.train(optimizer, 2)
    other.train(loaded, 2)
    assert_same(problem.weights(), other.weights())


@methods
def test_a_step_count_that_was_saved_as_a_number_loads(make: Make) -> None:
    """Old checkpoints of torch have numbers there."""
    problem, other = Problem(), Problem()
    optimizer, second = make(problem.params), make(other.params)
    problem.train(optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        if "step" in entry:
            entry["step"] = int(entry["step"])
    with torch.no_grad():
        for p, q in zip(other.params, problem.params, strict=True):
            p.copy_(q)
    second.load_state_dict(state)
    problem.train(optimizer, 2, first=3)
    other.train(second, 2, first=3)
    assert_same(problem.weights(), other.weights())


def _floats(state: dict[str, Any]) -> dict[tuple[int, str], Tensor]:
    return {
        (k, name): value
        for k, entry in state["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in ("step", "master")
    }


@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_state_loads_into_other_dtypes_and_keeps_its_moments(make: Make, dtype: torch.dtype) -> None:
    problem, other = Problem(dtype=torch.float32), Problem(dtype=dtype)
    optimizer, loaded = make(problem.params), make(other.params)
    problem.train(optimizer, 3)
    saved = optimizer.state_dict()
    loaded.load_state_dict(saved)
    moments = torch.float64 if dtype == torch.float64 else torch.float32
    before, after = _floats(saved), _floats(loaded.state_dict())
    assert set(before) == set(after)
    for key, value in after.items():
        if value.numel() > 1:  # a number may keep more digits than the weights
            assert value.dtype == moments, key
        assert torch.equal(value.double(), before[key].double()), key
    other.train(loaded, 3)
    assert all(torch.isfinite(p).all() for p in other.params)
    for value in _floats(loaded.state_dict()).values():
        assert value.dtype in (moments, torch.float64)


@native
def test_bfloat16_state_loads_into_float32(make: Make) -> None:
    problem, other = Problem(dtype=torch.bfloat16), Problem(dtype=torch.float32)
    optimizer, loaded = make(problem.params), make(other.params)
    problem.train(optimizer, 3)
    saved = optimizer.state_dict()
    loaded.load_state_dict(saved)
    before, after = _floats(saved), _floats(loaded.state_dict())
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    other.train(loaded, 3)
    assert all(torch.isfinite(p).all() for p in other.params)


@methods
def test_state_dict_hooks(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer, loaded = make(problem.params), make(other.params)
    problem.train(optimizer, 2)
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("pre"))

    def add(opt: Any, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("post")
        return {**state, "note": "kept"}

    optimizer.register_state_dict_post_hook(add)
    state = optimizer.state_dict()
    assert state["note"] == "kept"
    assert seen == ["pre", "post"]

    def take(opt: Any, loaded_state: dict[str, Any]) -> dict[str, Any]:
        seen.append("load pre")
        return {key: value for key, value in loaded_state.items() if key != "note"}

    loaded.register_load_state_dict_pre_hook(take)
    loaded.register_load_state_dict_post_hook(lambda opt: seen.append("load post"))
    loaded.load_state_dict(state)
    assert seen[2:] == ["load pre", "load post"]
    assert_same(loaded.state_dict(), {key: value for key, value in state.items() if key != "note"})


@methods
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_trains_alike_and_by_itself(make: Make, how: str) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    pair = [problem, optimizer]
    if how == "deepcopy":
        problem.generator = None  # type: ignore[assignment]  # torch cannot copy one
        for p in problem.params:
            p.grad = None
        twin, twin_optimizer = copy.deepcopy(pair)
    else:
        twin = Problem()
        twin.scales, twin.targets = problem.scales, problem.targets
        twin_optimizer = pickle.loads(pickle.dumps(optimizer))
        twin.params = [p for group in twin_optimizer.param_groups for p in group["params"]]
    assert type(twin_optimizer) is type(optimizer)
    before = snapshot(optimizer)
    assert_same(snapshot(twin_optimizer), before)
    twin.train(twin_optimizer, 3, first=3)
    assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 3, first=3)
    assert_same(snapshot(optimizer), snapshot(twin_optimizer))
    assert_differ(problem.weights(), before[0])


@methods
def test_an_optimizer_is_freed_without_the_garbage_collector(make: Make) -> None:
    """No reference cycle keeps the moments (as large as the model) alive."""
    problem = Problem()
    optimizer = make(problem.params)
    problem.train(optimizer, 1)
    alive = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert alive() is None
    finally:
        gc.enable()


def test_a_copy_keeps_its_predicate_for_groups_to_come() -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params[:1], lr=0.05, exclude=lambda name, param: param.ndim == 4)
    twin = copy.deepcopy(optimizer)
    other = Problem()
    optimizer.add_param_group({"params": problem.params[1:]})
    twin.add_param_group({"params": other.params[1:]})
    problem.train(optimizer, 2)
    other.train(twin, 2)
    assert_same(other.weights()[1:], problem.weights()[1:])


@methods
def test_torch_distributed_checkpoint_in_one_process(make: Make) -> None:
    """It makes a step with lr = 0 and zero gradients to create the state, which must leave no trace."""
    model, optimizer = model_and(make, 0)
    train_model(model, optimizer, 3, seed=5)
    weights = copy.deepcopy(model.state_dict())
    saved = save_and_open(get_optimizer_state_dict(model, optimizer))
    train_model(model, optimizer, 3, seed=6)

    fresh_model, fresh = model_and(make, 1)
    fresh_model.load_state_dict(weights)
    set_optimizer_state_dict(fresh_model, fresh, saved)
    assert_same(dict(fresh_model.state_dict()), dict(weights))
    assert_same(get_optimizer_state_dict(fresh_model, fresh), saved)
    train_model(fresh_model, fresh, 3, seed=6)
    assert_same(dict(fresh_model.state_dict()), dict(model.state_dict()))


@native
def test_asking_for_the_checkpoint_of_a_new_optimizer_changes_nothing(make: Make) -> None:
    model, optimizer = model_and(make, 0)
    twin, reference = model_and(make, 0)
    get_optimizer_state_dict(model, optimizer)
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))
    train_model(model, optimizer, 3, seed=5)
    train_model(twin, reference, 3, seed=5)
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))


BROKEN_STATES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a group too many": lambda s: s["param_groups"].append(dict(s["param_groups"][0], params=[])),
    "a group too few": lambda s: s["param_groups"].clear(),
    "a parameter too few": lambda s: s["param_groups"][0]["params"].pop(),
    "a parameter too many": lambda s: s["param_groups"][0]["params"].append(99),
    "another shape": lambda s: _reshape_state(s),
    "an entry too few": lambda s: _drop_entry(s),
    "no groups": lambda s: s.pop("param_groups"),
    "no state": lambda s: s.pop("state"),
}


def _tensor_state(state: dict[str, Any], optional: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    for entry in state["state"].values():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.ndim == 2 and key not in optional:
                return entry, key
    pytest.skip("this method keeps no such tensor")


def _reshape_state(state: dict[str, Any]) -> None:
    entry, key = _tensor_state(state)
    entry[key] = torch.zeros(3, 7, dtype=entry[key].dtype)


def _drop_entry(state: dict[str, Any]) -> None:
    # A velocity that is not there yet is zero, as torch.optim.SGD has it for its buffer.
    entry, key = _tensor_state(state, optional=("velocity",))
    del entry[key]


@native
@pytest.mark.parametrize("breakage", BROKEN_STATES.values(), ids=BROKEN_STATES)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(
    make: Make, breakage: Callable[[dict[str, Any]], None]
) -> None:
    problem, other = Problem(), Problem(seed=3)
    optimizer, donor = make(problem.params), make(other.params)
    problem.train(optimizer, 2)
    other.train(donor, 3)
    state = copy.deepcopy(donor.state_dict())
    state["param_groups"][0]["lr"] = 0.777
    breakage(state)
    before = snapshot(optimizer)
    with pytest.raises((ValueError, KeyError)) as error:
        optimizer.load_state_dict(state)
    assert str(error.value)
    assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 1, first=2)
    reference = Problem()
    reference.train(make(reference.params), 3)
    assert_same(problem.weights(), reference.weights())


@pytest.mark.parametrize(
    ("donor_name", "name"),
    [("LARS", "LAMB"), ("LARS", "Layca momentum"), ("radam, relative L1", "adagrad, percent delta")],
)
def test_a_state_without_the_moments_of_this_method_is_refused(donor_name: str, name: str) -> None:
    problem, other = Problem(), Problem()
    donor, optimizer = METHODS[donor_name](problem.params), METHODS[name](other.params)
    problem.train(donor, 2)
    other.train(optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"lacks .*(exp_avg|momentum_buffer|sum)"):
        optimizer.load_state_dict(donor.state_dict())
    assert_same(snapshot(optimizer), before)
