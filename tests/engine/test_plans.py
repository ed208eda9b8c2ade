"""A plan is kept from step to step, and whatever changes between steps is noticed.

The yardstick is the same optimizer with its plan dropped before each step: weights and state agree to the bit.
"""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import NATIVE, SHAPES, Make, Problem, assert_differ, assert_same, native
from torch import Tensor

import layerpace as lp
from layerpace.engine import backends
from layerpace.engine import cache as keeping
from layerpace.engine.backends import Work, reference
from layerpace.engine.backends.cpu import available
from layerpace.engine.numerics.columns import Table
from layerpace.rules import Coefficients, Layers, Rule

watched = pytest.mark.skipif(not available(), reason="without the compiled module no plan is kept")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "segments": {"segments": {"first.weight": 2, "first.bias": "rows", "conv.weight": 2}},
    "skip": {"nonfinite": "skip"},
    "raise": {"nonfinite": "raise"},
    "clip": {"max_grad_norm": 0.5},
    "adapt all": {"exclude": None},
    "maximize": {"maximize": True},
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


class Count:
    """How many plans have been made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        build = keeping.Plan

        def counted(*arguments: Any) -> Any:
            self.made += 1
            return build(*arguments)

        monkeypatch.setattr(keeping, "Plan", counted)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def named_state(optimizer: torch.optim.Optimizer, problem: Problem) -> list[Any]:
    return [dict(optimizer.state.get(p, {})) for p in problem.params]


def train(
    make: Make,
    change: Callable[[Any, Problem, int], Any] | None,
    steps: int = 7,
    keep: bool = True,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> tuple[list[Tensor], list[Any], Any]:
    """Weights, state and optimizer after some steps; ``change`` runs before each, after its gradients are set."""
    torch.manual_seed(0)
    problem = Problem(dtype)
    optimizer: Any = make(problem.named, **options)
    for step in range(steps):
        problem.set_gradients(step)
        if change is not None:
            change(optimizer, problem, step)
        if not keep:
            optimizer._cache.drop()
        optimizer.step()
    return problem.weights(), named_state(optimizer, problem), optimizer


def schedule(optimizer: Any, problem: Problem, step: int) -> None:
    """Other numbers in every step."""
    for group in optimizer.param_groups:
        group["lr"] *= 0.9
        group["weight_decay"] = 0.01 * step if group["weight_decay"] else 0.0
        if "betas" in group:
            group["betas"] = (0.9 - 0.01 * step, 0.99)
        if group.get("momentum"):
            group["momentum"] = 0.9 - 0.02 * step


# Kept


@watched
@native
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_kept_plan_makes_the_steps_of_new_ones(make: Make, options: dict[str, Any], count: Count) -> None:
    kept = train(make, schedule, **options)
    assert count.made == 1
    dropped = train(make, schedule, keep=False, **options)
    assert count.made == 1 + 7
    assert_same(kept[:2], dropped[:2])
    assert_differ(train(make, None, **options)[0][:1], kept[0][:1])


@watched
@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision_too(make: Make, dtype: torch.dtype, count: Count) -> None:
    kept = train(make, schedule, dtype=dtype)
    assert count.made == 1
    assert_same(kept[:2], train(make, schedule, keep=False, dtype=dtype)[:2])


@watched
@pytest.mark.parametrize("mode", ["stochastic", "plain"])
def test_random_rounding_repeats(mode: str, count: Count) -> None:
    options = {"dtype": torch.bfloat16, "low_precision": mode, "state_dtype": "bf16"}
    kept = train(lp.LAMB, None, **options)
    assert count.made == 1
    assert_same(kept[:2], train(lp.LAMB, None, keep=False, **options)[:2])


@watched
def test_complex_parameters_keep_their_plan(count: Count) -> None:
    results = []
    for keep in (True, False):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.complex128))
        optimizer = lp.LAMB([p], lr=0.1)
        for _ in range(4):
            p.grad = torch.randn(3, 4, generator=generator, dtype=torch.complex128)
            if not keep:
                optimizer._cache.drop()
            optimizer.step()
        results.append(p.detach().clone())
        assert count.made == (1 if keep else 5)
        p.grad = p.grad.conj()  # the same memory, read with another sign
        before = p.detach().clone()
        optimizer.step()
        assert not torch.equal(p.detach(), before)
        count.made = 1
    assert_same(results[0], results[1])


def test_nothing_is_kept_of_tensors_that_cannot_be_watched(count: Count) -> None:
    optimizer = lp.LAMB([torch.empty(shape, device="meta").requires_grad_() for shape in SHAPES])
    for _ in range(3):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.empty_like(p)
        optimizer.step()
    assert count.made == 3


def test_without_the_compiled_module_nothing_is_kept(count: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(lp.LAMB, schedule, backend="reference")
    count.made = 0
    monkeypatch.setattr("layerpace.engine.buckets.native", lambda: None)
    assert_same(train(lp.LAMB, schedule)[:2], expected[:2])
    assert count.made == 7


# Changes


def first(optimizer: Any) -> Tensor:
    p: Tensor = optimizer.param_groups[0]["params"][0]
    return p


def state_tensor(optimizer: Any, problem: Problem) -> None:
    state = optimizer.state[first(optimizer)]
    state["exp_avg"] = state["exp_avg"] * 3


def state_in_place(optimizer: Any, problem: Problem) -> None:
    optimizer.state[first(optimizer)]["exp_avg"].mul_(3)


def state_of_a_parameter(optimizer: Any, problem: Problem) -> None:
    optimizer.state[first(optimizer)] = {k: v * 2 for k, v in optimizer.state[first(optimizer)].items()}


def no_state_of_a_parameter(optimizer: Any, problem: Problem) -> None:
    del optimizer.state[first(optimizer)]


def all_state(optimizer: Any, problem: Problem) -> None:
    optimizer.state = type(optimizer.state)(dict)


def parameter_memory(optimizer: Any, problem: Problem) -> None:
    first(optimizer).data = first(optimizer).data * 1.5


def parameter_strides(optimizer: Any, problem: Problem) -> None:
    first(optimizer).data = (first(optimizer).data * 1.5).t().contiguous().t()


def gradient_strides(optimizer: Any, problem: Problem) -> None:
    p = first(optimizer)
    p.grad = (p.grad * 2).t().contiguous().t()  # type: ignore[operator]


def gradient_gone(optimizer: Any, problem: Problem) -> None:
    first(optimizer).grad = None


def all_gradients_gone(optimizer: Any, problem: Problem) -> None:
    for p in problem.params:
        p.grad = None


def fewer_parameters(optimizer: Any, problem: Problem) -> None:
    group = optimizer.param_groups[0]
    group["params"], group["param_names"] = group["params"][1:], group["param_names"][1:]


def parameter_by_hand(optimizer: Any, problem: Problem) -> None:
    # two parameters of equal values: the places of both are compared, not what is in them
    group = optimizer.param_groups[0]
    other = torch.nn.Parameter(first(optimizer).detach().clone())
    other.grad = first(optimizer).grad
    group["params"][0] = problem.params[0] = other


def a_group_replaced(optimizer: Any, problem: Problem) -> None:
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.5}


def a_group_added(optimizer: Any, problem: Problem) -> None:
    extra = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    extra.grad = torch.ones_like(extra)
    problem.params.append(extra)
    problem.targets.append(extra.detach())
    problem.scales.append(extra.detach())
    optimizer.add_param_group({"params": [("extra", extra)]})


def a_group_by_hand(optimizer: Any, problem: Problem) -> None:
    group = optimizer.param_groups[0]
    extra = {**group, "params": group["params"][2:], "param_names": group["param_names"][2:], "lr": 0.5}
    group["params"], group["param_names"] = group["params"][:2], group["param_names"][:2]
    optimizer.param_groups.append(extra)


def a_group_without_gradients(optimizer: Any, problem: Problem) -> None:
    other = torch.nn.Parameter(torch.ones(2))
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [other], "param_names": ["other"]})
    optimizer.param_groups[0]["lr"] = 0.5


def loaded(optimizer: Any, problem: Problem) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values["exp_avg"] *= 2
    optimizer.load_state_dict(state)


def one_step_count(optimizer: Any, problem: Problem) -> None:
    optimizer.state[first(optimizer)]["step"].fill_(20)


def all_step_counts(optimizer: Any, problem: Problem) -> None:
    for p in problem.params:
        optimizer.state[p]["step"].fill_(20)


def option(**values: Any) -> Callable[[Any, Problem], None]:
    def change(optimizer: Any, problem: Problem) -> None:
        optimizer.param_groups[0].update(values)

    return change


def gradient_scaled(optimizer: Any, problem: Problem) -> None:
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.grad_scale = torch.tensor(16.0)


def step_skipped(optimizer: Any, problem: Problem) -> None:
    optimizer.found_inf = torch.tensor(1.0)


# change -> how many plans a run of seven steps makes, where it comes before the fourth
CHANGES: dict[str, tuple[Callable[[Any, Problem], None], int]] = {
    "state tensor": (state_tensor, 2),
    "state in place": (state_in_place, 1),
    "state of a parameter": (state_of_a_parameter, 2),
    "no state of a parameter": (no_state_of_a_parameter, 2),
    "all state": (all_state, 2),
    "parameter's memory": (parameter_memory, 2),
    "parameter's strides": (parameter_strides, 2),
    "gradient's strides": (gradient_strides, 3),
    "gradient gone for a step": (gradient_gone, 3),
    "all gradients gone for a step": (all_gradients_gone, 2),
    "fewer parameters": (fewer_parameters, 2),
    "another parameter by hand": (parameter_by_hand, 2),
    "a group replaced": (a_group_replaced, 2),
    "a group by hand": (a_group_by_hand, 2),
    "a group without gradients": (a_group_without_gradients, 2),
    "a group added": (a_group_added, 2),
    "a state loaded": (loaded, 2),
    "one step count": (one_step_count, 2),
    "all step counts": (all_step_counts, 1),
    "lr": (option(lr=0.5), 1),
    "lr 0": (option(lr=0.0), 2),
    "lr_multiplier": (option(lr_multiplier=0.5), 1),
    "weight decay": (option(weight_decay=0.5), 1),
    "coupled decay": (option(weight_decay=0.5, decoupled_weight_decay=False), 2),  # of excluded vectors it is 0
    "betas": (option(betas=(0.5, 0.9)), 1),
    "betas in a list": (option(betas=[0.5, 0.9]), 1),
    "eps": (option(eps=0.1), 1),
    "maximize": (option(maximize=True), 1),
    "another state needed": (option(amsgrad=True), 2),
    "bias correction": (option(bias_correction=False), 2),
    "bias correction by the rate": (option(bias_correction="after"), 2),
    "velocity": (option(momentum=0.9, dampening=0.0, nesterov=False), 2),
    "GradScaler": (gradient_scaled, 2),
    "GradScaler's skip": (step_skipped, 2),
}


@watched
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(name: str, count: Count) -> None:
    change, plans = CHANGES[name]

    def once(optimizer: Any, problem: Problem, step: int) -> None:
        if step == 3:
            change(optimizer, problem)

    kept = train(lp.LAMB, once)
    assert count.made == plans
    dropped = train(lp.LAMB, once, keep=False)
    assert_same(kept[:2], dropped[:2])
    unchanged = train(lp.LAMB, None)
    if name == "GradScaler":
        assert_differ(kept[0], unchanged[0])  # gradients were not scaled, so dividing them by 16 shows
    elif name != "a group added":
        assert any(not torch.equal(a, b) for a, b in zip(kept[0], unchanged[0], strict=False)), "nothing has changed"


@watched
@pytest.mark.parametrize(
    ("values", "plans"),
    [({"lr": 0.3}, 1), ({"betas": (0.5, 0.9)}, 2), ({"weight_decay": 0.3}, 1), ({"maximize": True}, 2)],
    ids=["lr", "betas", "weight decay", "maximize"],
)
def test_groups_that_part_get_buckets_of_their_own(values: dict[str, Any], plans: int, count: Count) -> None:
    def make(params: Any, **options: Any) -> torch.optim.Optimizer:
        return lp.LAMB([{"params": params[:2]}, {"params": params[2:]}], weight_decay=0.1, **options)

    def change(optimizer: Any, problem: Problem, step: int) -> None:
        if step == 3:
            optimizer.param_groups[1].update(values)

    kept = train(make, change)
    assert count.made == plans
    assert_same(kept[:2], train(make, change, keep=False)[:2])
    alone = train(make, None)
    assert_same(kept[0][:2], alone[0][:2])
    assert_differ(kept[0][2:3], alone[0][2:3])


@watched
def test_step_counts_that_part_in_a_later_bucket_are_noticed_before_any_is_counted(count: Count) -> None:
    def make(params: Any, **options: Any) -> torch.optim.Optimizer:
        return lp.LAMB([{"params": params[:2]}, {"params": params[2:], "betas": (0.5, 0.9)}], **options)

    def change(optimizer: Any, problem: Problem, step: int) -> None:
        if step == 3:
            optimizer.state[problem.params[3]]["step"].fill_(20)

    kept = train(make, change)
    assert count.made == 2
    assert_same(kept[:2], train(make, change, keep=False)[:2])
    assert [float(state["step"]) for state in kept[1]] == [7, 7, 7, 24]


@watched
def test_the_rate_of_a_direction_follows_the_step(count: Count) -> None:
    """DeepSpeed's LAMB corrects the bias by a factor on lr that depends on the step."""
    kept = train(lp.LAMB, None, steps=4, bias_correction="after", exclude=None, min_rms=0.0)
    assert count.made == 1
    plan = kept[2]._cache.plan
    factor = (1 - 0.999**4) ** 0.5 / (1 - 0.9**4)
    expected = kept[2].param_groups[0]["lr"] * factor * plan.coefficients.ratio
    torch.testing.assert_close(plan.coefficients.b, expected)


@watched
def test_a_list_or_a_tensor_that_changes_by_itself_is_noticed(count: Count) -> None:
    def change(optimizer: Any, problem: Problem, step: int) -> None:
        if step == 3:
            optimizer.param_groups[0]["betas"][0] = 0.5
            optimizer.param_groups[0]["lr"].mul_(0.5)

    def make(params: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer = lp.LAMB(params, lr=torch.tensor(0.1), **options)
        optimizer.param_groups[0]["betas"] = [0.9, 0.99]
        return optimizer

    kept = train(make, change)
    assert count.made == 1
    assert_same(kept[:2], train(make, change, keep=False)[:2])
    assert_differ(kept[0], train(make, None)[0])


# name -> scheduler, and how many plans seven steps make: whether layers step at a rate of 0 is for the device to say
SCHEDULERS: dict[str, tuple[Callable[[torch.optim.Optimizer], Any], int]] = {
    "StepLR": (lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5), 1),
    "LambdaLR": (lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), 1),
    "CosineAnnealingLR": (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6), 2),
    "OneCycleLR": (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=20), 1),
    "CyclicLR": (lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.05, step_size_up=2, base_momentum=0.5), 1),
    "linear_decay": (lambda o: lp.schedules.linear_decay(o, 0.1), 1),
    "polynomial_decay": (lambda o: lp.schedules.polynomial_decay(o, 6, warmup_steps=2), 3),
}


@watched
@pytest.mark.parametrize("name", ["LARS", "LAMB", "PercentDelta", "Layca momentum"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_write_into_the_kept_plan(name: str, scheduler: str, count: Count) -> None:
    schedulers: dict[int, Any] = {}

    def change(optimizer: Any, problem: Problem, step: int) -> None:
        if step == 0:
            schedulers[id(optimizer)] = SCHEDULERS[scheduler][0](optimizer)
        else:
            schedulers[id(optimizer)].step()

    kept = train(NATIVE[name], change)
    assert count.made == SCHEDULERS[scheduler][1]
    assert_same(kept[:2], train(NATIVE[name], change, keep=False)[:2])
    assert_differ(kept[0], train(NATIVE[name], None)[0])


@watched
def test_a_value_out_of_range_changes_nothing_and_is_no_end(count: Count) -> None:
    problem, other = Problem(), Problem()
    optimizer, expected = lp.LAMB(problem.params), lp.LAMB(other.params)
    problem.train(optimizer, 3)
    before = problem.weights(), copy.deepcopy(named_state(optimizer, problem))
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="parameter group 0"):
        problem.train(optimizer, 1, first=3)
    assert_same((problem.weights(), named_state(optimizer, problem)), before)
    optimizer.param_groups[0]["lr"] = expected.param_groups[0]["lr"]
    problem.train(optimizer, 3, first=3)
    other.train(expected, 6)
    assert_same(problem.weights(), other.weights())


# What a plan may hold


@watched
def test_gradients_are_let_go(count: Count) -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params)
    for step in range(3):
        problem.set_gradients(step)
        optimizer.step()
        gradients = [weakref.ref(p.grad) for p in problem.params if p.grad is not None]
        optimizer.zero_grad()
        assert [ref() for ref in gradients] == [None] * 4
    assert count.made == 1


def test_a_plan_holds_the_parameters_themselves() -> None:
    """A detached view would keep their old memory when a model moves to another device."""
    problem = Problem()
    optimizer = lp.LAMB(problem.params)
    problem.train(optimizer, 2)
    plan = optimizer._cache.plan
    assert plan is not None
    held = [p for part in plan.parts for work in part.works for p in work.params]
    assert {id(p) for p in held} == {id(p) for p in problem.params}


def test_copies_have_plans_of_their_own(count: Count) -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params)
    problem.train(optimizer, 2)
    assert optimizer._cache.plan is not None
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other._cache.plan is None
        before = problem.weights()
        for p, q in zip(problem.params, other.param_groups[0]["params"], strict=True):
            q.grad = p.grad
        other.step()
        assert_same(problem.weights(), before)
        assert_differ(other.param_groups[0]["params"], before)
    assert "_cache" not in optimizer.__getstate__()
    assert not any("plan" in key for key in optimizer.state_dict())


def test_two_threads_step_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    step = keeping.layerwise_step

    def slow(*arguments: Any) -> bool:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        done = step(*arguments)
        inside -= 1
        return done

    monkeypatch.setattr(keeping, "layerwise_step", slow)
    problem = Problem()
    optimizer = lp.LAMB(problem.params)
    problem.set_gradients(0)
    threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(3)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert all(float(optimizer.state[p]["step"]) == 9 for p in problem.params)


# The flow: backends that do a step in one call


class Fused:
    """The reference in one call a bucket, for the rules of ``rules``; None for buckets that ``refuses`` names."""

    def __init__(self, *rules: type[Rule], refuses: Callable[[Work], bool] = lambda work: False) -> None:
        self.rules, self.refuses = rules, refuses
        self.calls = 0

    gradient_sums = staticmethod(reference.gradient_sums)
    accumulate = staticmethod(reference.accumulate)
    apply = staticmethod(reference.apply)

    def fuses(self, rule: Rule) -> bool:
        return isinstance(rule, self.rules)

    def step(
        self,
        work: Work,
        layers: Layers,
        excluded_L: Tensor | None,
        columns: tuple[str, ...],
        constants: Any,
    ) -> tuple[Tensor, Coefficients] | None:
        self.calls += 1
        if self.refuses(work):
            return None
        rows = reference.accumulate(work, columns, constants)
        assert len(rows) == work.rows == len(layers.lr) == len(layers.n)
        result = work.rule(Table(rows, columns), layers, {})
        if excluded_L is not None:
            result = Coefficients(
                c=None if result.c is None else torch.where(excluded_L, 0.0, result.c),
                b=torch.where(excluded_L, layers.lr, result.b),
                ratio=torch.where(excluded_L, 1.0, result.ratio),
            )
        outside = work.lr_L is not None
        b_L = result.ratio if outside else result.b
        reference.apply(work, b_L * layers.weight_decay if outside else result.c, b_L)
        return rows, result


MIXED: dict[str, Any] = {
    "one bucket": lambda p: p,
    "two groups": lambda p: [{"params": p[:2]}, {"params": p[2:], "lr": 0.01, "weight_decay": 0.3, "eps": 1e-3}],
}


@pytest.mark.parametrize("spell", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("name", ["LAMB", "deepspeed", "timm LARS", "refused", "one of two", "other rule"])
def test_a_step_in_one_call_is_the_step_in_phases(name: str, spell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = Fused(lp.rules.TrustRatio)
    make: Any = lp.LAMB
    if name == "deepspeed":
        make = lp.LAMB.preset("deepspeed")
    elif name == "timm LARS":
        make = functools.partial(lp.LARS.preset("timm"), momentum=0.9)
    elif name == "refused":
        fused = Fused(lp.rules.TrustRatio, refuses=lambda work: len(work.params) > 1)
    elif name == "other rule":
        fused = Fused(lp.rules.Rotation)
    if name == "timm LARS" and spell is not MIXED["one bucket"]:
        spell = lambda p: [{"params": p[:2]}, {"params": p[2:], "lr": 0.01, "weight_decay": 0.3}]  # noqa: E731

    def build(params: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = make(spell(params), lr=0.02, **options)
        return optimizer

    def falling(optimizer: Any, problem: Problem, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 0.9

    expected = train(build, falling, backend="reference")
    one_only = name == "one of two"

    def select(name: str, param: Tensor, *rest: Any) -> Any:
        return reference if one_only and param.ndim < 2 else fused

    monkeypatch.setattr(backends, "select", select)
    got = train(build, falling)
    if available():
        assert (fused.calls > 0) == (name != "other rule")
    assert_same(got[:2], expected[:2])
    ours, theirs = got[2]._cache.plan, expected[2]._cache.plan
    if one_only:  # buckets are others, and so is the order of their rows
        found = {id(p): work.backend for part in ours.parts for work in part.works for p in work.params}
        params = [p for group in got[2].param_groups for p in group["params"]]
        assert [found[id(p)] is reference for p in params] == [p.ndim < 2 or not available() for p in params]
    else:
        assert_same(ours.table.values, theirs.table.values)
        assert_same(ours.coefficients.b, theirs.coefficients.b)
        assert_same(ours.coefficients.ratio, theirs.coefficients.ratio)


def test_the_plan_has_the_table_and_the_coefficients_of_the_last_step() -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params, lr=0.1, exclude=None)
    problem.train(optimizer, 3)
    before = problem.weights()
    problem.train(optimizer, 1, first=3)
    plan = optimizer._cache.plan
    assert plan is not None
    assert plan.table.columns == ("ww", "uu", "wu")
    squares = torch.stack([w.square().sum() for w in before])
    torch.testing.assert_close(plan.table["ww"], squares)
    moved = torch.stack([(p.detach() - w).square().sum().sqrt() for p, w in zip(problem.params, before, strict=True)])
    torch.testing.assert_close(plan.coefficients.b * plan.table["uu"].sqrt(), moved)
    torch.testing.assert_close(plan.coefficients.b, 0.1 * plan.coefficients.ratio)
