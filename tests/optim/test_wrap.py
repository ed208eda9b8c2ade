"""`wrap`: any torch optimizer as the direction of a rule, with shared groups and state."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_differ, assert_same, save_and_open, snapshot
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import layerpace as lp

D, R = lp.directions, lp.rules

RULES: dict[str, lp.rules.Rule] = {
    "identity": R.Identity(),
    "trust ratio": R.TrustRatio(),
    "trust ratio clipped": R.TrustRatio(clip=(0.1, 0.5)),
    "percent delta": R.PercentDelta(),
    "relative L1": R.RelativeL1(),
    "rotation": R.Rotation(),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)

TWINS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Any]] = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.05), D.SGD()),
    "SGD momentum": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), D.HeavyBall(momentum=0.9)),
    "SGD nesterov": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True), D.Nesterov(momentum=0.9)),
    "Adam": (lambda p: torch.optim.Adam(p, lr=0.05), D.Adam()),
    "Adam amsgrad": (lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True), D.AMSGrad()),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.05), D.AdaGrad()),
    "Adadelta": (lambda p: torch.optim.Adadelta(p, lr=0.05), D.AdaDelta()),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=0.05), D.RMSProp()),
    "Adamax": (lambda p: torch.optim.Adamax(p, lr=0.05), D.AdaMax()),
    "RAdam": (lambda p: torch.optim.RAdam(p, lr=0.05), D.RAdam()),
}


@rules
@pytest.mark.parametrize(("make", "direction"), TWINS.values(), ids=TWINS)
def test_a_wrapped_optimizer_is_the_direction(make: Any, direction: Any, rule: lp.rules.Rule) -> None:
    """u read back from the weights is known to about 1e-16*||w||/||d||: 1e-10 here."""
    a, b = Problem(), Problem()
    before = a.weights()
    wrapped = lp.wrap(make(a.params), rule)
    native = lp.Layerwise(b.params, direction=direction, rule=rule, lr=0.05)
    for optimizer, problem in ((wrapped, a), (native, b)):
        schedule = lp.schedules.linear_decay(optimizer, slope=0.05)
        for step in range(8):
            problem.train(optimizer, 1, first=step)
            schedule.step()
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)
    assert_differ(a.weights(), before)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_the_decay_of_the_wrapped_optimizer_is_part_of_its_direction(make: Any) -> None:
    """AdamW under the trust ratio is LAMB, decay in the norm; coupled decay goes through the moments."""
    a, b = Problem(), Problem()
    wrapped = lp.wrap(make(a.params, lr=0.02, weight_decay=0.1), R.TrustRatio(), exclude=None)
    native: torch.optim.Optimizer
    if make is torch.optim.AdamW:
        native = lp.LAMB(b.params, lr=0.02, weight_decay=0.1, eps=1e-8, exclude=None)
    else:
        native = lp.Layerwise(
            b.params,
            direction="adam" if make is torch.optim.Adam else "sgd",
            rule=R.TrustRatio(),
            lr=0.02,
            weight_decay=0.1,
            decoupled_weight_decay=False,
            exclude=None,
        )
    a.train(wrapped, 8)
    b.train(native, 8)
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


ANY: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.05),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.05, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
    "Adam capturable lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.05), foreach=False),
}
if hasattr(torch.optim, "Muon"):
    ANY["Muon"] = lambda p: torch.optim.Muon(p, lr=0.05)


@pytest.mark.parametrize("make", ANY.values(), ids=ANY)
def test_any_optimizer_obeys_the_rule(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    for rule in (R.Rotation(), R.TrustRatio(), R.RelativeL1()):
        problem = Problem(shapes=[(6, 4), (5, 7)])
        optimizer = lp.wrap(make(problem.params), rule)
        norms = [w.norm() for w in problem.weights()]
        for step in range(4):
            before = problem.weights()
            problem.train(optimizer, 1, first=step)
            for p, w, norm in zip(problem.params, before, norms, strict=True):
                moved = p.detach() - w
                if isinstance(rule, R.Rotation):
                    cosine = float((p.detach() * w).sum() / (p.detach().norm() * w.norm()))
                    assert math.tan(math.acos(cosine)) == pytest.approx(0.05, rel=1e-6)
                    assert float(p.detach().norm()) == pytest.approx(float(norm), rel=1e-10)
                elif isinstance(rule, R.TrustRatio):
                    assert float(moved.norm() / w.norm()) == pytest.approx(0.05, rel=1e-6)
                else:
                    assert float(moved.abs().sum() / w.abs().sum()) == pytest.approx(0.05, rel=1e-6)


def test_an_optimizer_that_steps_by_closure() -> None:
    problem = Problem(shapes=[(6, 4)])
    optimizer = lp.wrap(torch.optim.LBFGS(problem.params, lr=0.05, max_iter=2), R.Rotation())
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    before = problem.weights()[0]
    loss = optimizer.step(closure)
    assert float(loss.detach()) == calls[0]
    after = problem.weights()[0]
    cosine = float((after * before).sum() / (after.norm() * before.norm()))
    assert math.tan(math.acos(cosine)) == pytest.approx(0.05, rel=1e-6)


def test_groups_and_state_are_shared() -> None:
    problem = Problem()
    inner = torch.optim.Adam(problem.params, lr=0.05)
    outer = lp.wrap(inner, R.TrustRatio())
    assert isinstance(outer, torch.optim.Optimizer)
    assert outer.param_groups is inner.param_groups
    problem.train(outer, 2)
    for p in problem.params:
        for name, value in inner.state[p].items():
            assert outer.state[p][name] is value


@pytest.mark.parametrize("on", ["inner", "outer"])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lp.schedules.linear_decay(o, 0.2),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=10),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.05, step_size_up=2),
    ],
    ids=["linear decay", "cosine", "one cycle", "cyclic"],
)
def test_a_scheduler_on_either_moves_both(on: str, schedule: Callable[[Any], Any]) -> None:
    results = []
    for where in ("inner", on):
        problem = Problem()
        inner = torch.optim.SGD(problem.params, lr=0.05, momentum=0.9)
        outer = lp.wrap(inner, R.Rotation())
        scheduler = schedule(inner if where == "inner" else outer)
        seen = []
        for step in range(5):
            problem.train(outer, 1, first=step)
            scheduler.step()
            assert inner.param_groups[0]["lr"] == outer.param_groups[0]["lr"] == scheduler.get_last_lr()[0]
            seen.append(scheduler.get_last_lr()[0])
        assert len(set(seen)) > 2
        results.append(problem.weights())
    assert_same(results[0], results[1])


def test_a_warmup_of_one_may_be_followed_by_a_schedule_of_the_other() -> None:
    problem = Problem()
    inner = torch.optim.SGD(problem.params, lr=0.05)
    outer = lp.wrap(inner, R.Rotation())
    schedule = lp.schedules.warmup(outer, 2, after=torch.optim.lr_scheduler.ExponentialLR(inner, 0.5))
    seen = []
    for step in range(5):
        seen.append(inner.param_groups[0]["lr"])
        problem.train(outer, 1, first=step)
        schedule.step()
    assert seen == pytest.approx([0.0, 0.025, 0.05, 0.025, 0.0125])


@pytest.mark.parametrize("on", ["inner", "outer"])
def test_a_group_may_be_added_to_either(on: str) -> None:
    problem, whole = Problem(), Problem()
    inner = torch.optim.Adam(problem.named[:2], lr=0.05)
    outer = lp.wrap(inner, R.Rotation(), exclude=["first.bias"])
    group = {"params": problem.named[2:], "lr": 0.02}
    (inner if on == "inner" else outer).add_param_group(group)
    assert len(inner.param_groups) == len(outer.param_groups) == 2
    problem.train(outer, 3)
    reference = lp.Layerwise(
        [{"params": whole.named[:2]}, {"params": whole.named[2:], "lr": 0.02}],
        direction="adam",
        rule="rotation",
        lr=0.05,
        exclude=["first.bias"],
    )
    whole.train(reference, 3)
    for p, q in zip(problem.params, whole.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("load_into", ["outer", "inner"])
@rules
def test_the_state_dict_is_the_inner_ones_and_resumes_to_the_bit(rule: lp.rules.Rule, load_into: str) -> None:
    problem, other = Problem(), Problem()
    inner = torch.optim.Adam(problem.params, lr=0.05)
    outer = lp.wrap(inner, rule)
    problem.train(outer, 3)
    assert_same(outer.state_dict(), inner.state_dict())
    saved = save_and_open([outer.state_dict(), problem.weights()])
    problem.train(outer, 3, first=3)

    fresh_inner = torch.optim.Adam(other.params, lr=0.05)
    fresh = lp.wrap(fresh_inner, rule)
    with torch.no_grad():
        for p, w in zip(other.params, saved[1], strict=True):
            p.copy_(w)
    (fresh if load_into == "outer" else fresh_inner).load_state_dict(saved[0])
    other.train(fresh, 3, first=3)
    assert_same(other.weights(), problem.weights())
    assert_same(fresh.state_dict(), outer.state_dict())


def test_the_rules_numbers_keep_their_digits_through_float32_weights() -> None:
    """The norm of the first weights is float64; torch casts loaded state to the weights' dtype."""
    problem, other = Problem(dtype=torch.float32), Problem(dtype=torch.float32)
    outer = lp.wrap(torch.optim.Adam(problem.params, lr=0.05), R.Rotation())
    problem.train(outer, 2)
    fresh = lp.wrap(torch.optim.Adam(other.params, lr=0.05), R.Rotation())
    fresh.load_state_dict(save_and_open(outer.state_dict()))
    norm = outer.state[problem.params[0]]["initial_norm"]
    assert norm.dtype == torch.float64
    assert_same(fresh.state[other.params[0]]["initial_norm"], norm)


def test_a_plain_state_may_be_wrapped_later() -> None:
    """A run of Adam goes on under a rule."""
    problem = Problem()
    adam = torch.optim.Adam(problem.params, lr=0.05)
    problem.train(adam, 3)
    other = Problem()
    with torch.no_grad():
        for p, q in zip(other.params, problem.params, strict=True):
            p.copy_(q)
    wrapped = lp.wrap(torch.optim.Adam(other.params, lr=0.05), R.Rotation())
    wrapped.load_state_dict(save_and_open(adam.state_dict()))
    before = other.weights()
    other.train(wrapped, 1, first=3)
    assert torch.equal(wrapped.state[other.params[0]]["exp_avg"] != 0, torch.ones(4, 3, dtype=torch.bool))
    cosine = float((other.params[0].detach() * before[0]).sum() / before[0].norm() ** 2)
    assert math.tan(math.acos(cosine)) == pytest.approx(0.05, rel=1e-6)


def test_a_deepcopy_is_independent() -> None:
    problem = Problem()
    inner = torch.optim.Adam(problem.params, lr=0.05)
    outer = lp.wrap(inner, R.Rotation())
    problem.train(outer, 2)
    twin = copy.deepcopy(outer)
    assert twin.param_groups is not inner.param_groups
    assert twin.inner is not inner
    assert twin.param_groups is twin.inner.param_groups
    before = snapshot(outer)
    for p in twin.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    twin.step()
    assert_same(snapshot(outer), before)
    assert_differ(snapshot(twin)[0][:1], before[0][:1])


def test_excluded_tensors_take_the_optimizers_own_step() -> None:
    a, b = Problem(), Problem()
    wrapped = lp.wrap(torch.optim.Adam(a.named, lr=0.05, weight_decay=0.1), R.Rotation(), exclude="*")
    plain = torch.optim.Adam(b.params, lr=0.05, weight_decay=0.1)
    a.train(wrapped, 4)
    b.train(plain, 4)
    assert_same(a.weights(), b.weights())


def test_segments_and_multipliers() -> None:
    problem = Problem()
    groups = [
        {"params": problem.named[:1], "lr_multiplier": 0.5},
        {"params": problem.named[1:]},
    ]
    wrapped = lp.wrap(torch.optim.SGD(groups, lr=0.04), R.Rotation(), segments={"first.weight": 2})
    before = problem.weights()
    problem.train(wrapped, 1)
    for k, rate, rows in ((0, 0.02, slice(0, 2)), (0, 0.02, slice(2, 4)), (2, 0.04, slice(None))):
        old, new = before[k][rows], problem.params[k].detach()[rows]
        cosine = float((old * new).sum() / (old.norm() * new.norm()))
        assert math.tan(math.acos(cosine)) == pytest.approx(rate, rel=1e-6)


def test_a_rate_of_zero_moves_nothing() -> None:
    for lr in (0.0, torch.tensor(0.0)):
        for rule in RULES.values():
            problem = Problem()
            before = problem.weights()
            problem.train(lp.wrap(torch.optim.SGD(problem.params, lr=lr, momentum=0.9), rule), 2)
            assert_same(problem.weights(), before)


class Memory(TorchDispatchMode):
    """Bytes of the tensors' memory that was made under the mode and is alive; the highest there was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}
        self.now = self.peak = 0

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self.seen.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out


def test_memory_held_after_a_step_is_the_inner_optimizers() -> None:
    """What stays between steps is the state of the inner optimizer and a number for each layer."""
    shapes = [(64, 32), (48, 64), (7,)]
    problem = Problem(shapes=shapes)
    wrapped = lp.wrap(torch.optim.Adam(problem.params, lr=0.05), R.Rotation())
    problem.train(wrapped, 1)
    held = sum(v.numel() * v.element_size() for s in wrapped.state.values() for v in s.values() if v.numel() > 1)
    weights = sum(p.numel() * p.element_size() for p in problem.params)
    assert held == 2 * weights  # Adam's two moments


@pytest.mark.parametrize("rule", [R.TrustRatio(), R.Rotation(), R.PercentDelta()], ids=["trust", "rotation", "percent"])
def test_a_step_takes_at_most_one_more_copy_of_the_weights(rule: lp.rules.Rule) -> None:
    """Peak memory of the step, beyond that of the inner step alone: one copy, and the working space of a layer.

    Many layers of equal size, so that working space of one layer or bucket shows as a small part.
    """
    count, side = 24, 32

    def peak(wrap: bool) -> int:
        params = [torch.randn(side, side, requires_grad=True) for _ in range(count)]
        inner = torch.optim.SGD(params, lr=0.05, momentum=0.9, foreach=False)
        optimizer: torch.optim.Optimizer = lp.wrap(inner, rule) if wrap else inner
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
        with Memory() as memory:
            optimizer.step()
            return memory.peak

    weights = count * side * side * 4
    extra = peak(True) - peak(False)
    assert weights <= extra  # one copy there must be
    assert extra <= 1.5 * weights


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear"):
        lp.wrap(torch.nn.Linear(2, 2), R.Rotation())  # type: ignore[arg-type]
    inner = torch.optim.SGD(Problem().params, lr=0.1)
    with pytest.raises((TypeError, ValueError), match="rule"):
        lp.wrap(inner, "adam")
    with pytest.raises(TypeError):
        lp.wrap(inner, R.Rotation, unknown=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="min_rms"):
        lp.wrap(inner, R.Rotation(), min_rms=-1.0)
    named = torch.optim.SGD(Problem().named, lr=0.1)
    with pytest.raises(ValueError, match="nothing"):
        lp.wrap(named, R.Rotation(), exclude="nothing.*")
