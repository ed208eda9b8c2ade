"""Options that change on the way, come by a group, or belong to something else."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_same, snapshot
from torch import Tensor

import layerpace as lp


def turned(before: Tensor, after: Tensor) -> float:
    cosine = float((before * after).sum() / (before.norm() * after.norm()))
    return math.acos(min(1.0, cosine))


def weight(rows: int = 6, columns: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator).requires_grad_()


def give_gradient(w: Tensor, seed: int) -> None:
    w.grad = torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(1000 + seed))


@pytest.mark.parametrize("direction", ["sgd", "adam"])
def test_layca_turns_by_its_rate_while_a_schedule_moves_momentum(direction: str) -> None:
    w = weight()
    optimizer = lp.Layca([w], lr=0.01, direction=direction)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=20)
    norm = float(w.detach().norm())
    for step in range(19):
        before, lr = w.detach().clone(), optimizer.param_groups[0]["lr"]
        give_gradient(w, step)
        optimizer.step()
        schedule.step()
        assert turned(before, w.detach()) == pytest.approx(math.atan(lr), rel=1e-6)
        assert float(w.detach().norm()) == pytest.approx(norm, rel=1e-12)


def test_momentum_of_a_layca_group_stands_before_the_rotation() -> None:
    by_group, by_argument = weight(), weight()
    one = lp.Layca([{"params": [by_group], "momentum": 0.9}], lr=0.02)
    other = lp.Layca([by_argument], lr=0.02, momentum=0.9)
    for step in range(5):
        for w, optimizer in ((by_group, one), (by_argument, other)):
            give_gradient(w, step)
            optimizer.step()
    assert torch.equal(by_group, by_argument)


def test_layca_has_no_momentum_after_the_rotation() -> None:
    with pytest.raises(TypeError, match=r"'momentum'.*group 0"):
        lp.Layca([{"params": [weight()], "momentum": 0.9}], lr=0.02, direction="ema_momentum")


@pytest.mark.parametrize(
    ("direction", "change", "name"),
    [
        (lp.directions.RMSProp(), {"momentum": 0.9}, "momentum_buffer"),
        (lp.directions.RMSProp(), {"centered": True}, "grad_avg"),
        (lp.directions.Adam(), {"amsgrad": True}, "max_exp_avg_sq"),
        (lp.directions.HeavyBall(momentum=0.0), {"momentum": 0.5}, "momentum_buffer"),
    ],
)
def test_an_option_that_asks_for_more_state_gets_it(
    direction: lp.directions.Direction, change: dict[str, object], name: str
) -> None:
    w = weight()
    optimizer = lp.Layerwise([w], direction=direction, rule="identity", lr=0.01)
    give_gradient(w, 0)
    optimizer.step()
    assert name not in optimizer.state[w]
    optimizer.param_groups[0].update(change)
    give_gradient(w, 1)
    optimizer.step()
    assert name in optimizer.state[w]
    assert float(optimizer.state[w]["step"]) == 2


@pytest.mark.parametrize("betas", [(0.5, 0.75), (0.5, 0.76), (0.9, 0.999)])
def test_correction_after_the_ratio_is_adam_where_there_is_no_ratio(betas: tuple[float, float]) -> None:
    # With eps = 0 the place of the correction makes no difference to Adam itself.
    after, before = weight(), weight()
    one = lp.Layerwise(
        [after], direction=lp.directions.Adam(betas, eps=0.0, bias_correction="after"), rule="identity", lr=0.01
    )
    other = lp.Layerwise([before], direction=lp.directions.Adam(betas, eps=0.0), rule="identity", lr=0.01)
    for step in range(6):
        for w, optimizer in ((after, one), (before, other)):
            give_gradient(w, step)
            optimizer.step()
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("decoupled", [True, False])
def test_always_adapt_off_looks_at_both_kinds_of_weight_decay(decoupled: bool) -> None:
    decayed, plain = weight(), weight(seed=1)
    rule = lp.rules.TrustRatio(always_adapt=False)
    optimizer = lp.Layerwise(
        [{"params": [decayed], "weight_decay": 1e-9}, {"params": [plain]}],
        direction="sgd", rule=rule, lr=0.1, decoupled_weight_decay=decoupled,
    )  # fmt: skip
    before = [decayed.detach().clone(), plain.detach().clone()]
    for w in (decayed, plain):
        w.grad = torch.full_like(w, 7.0)
    optimizer.step()
    assert float((before[0] - decayed.detach()).norm()) == pytest.approx(0.1 * float(before[0].norm()), rel=1e-6)
    torch.testing.assert_close(before[1] - plain.detach(), torch.full_like(plain, 0.7))


@pytest.mark.parametrize("option", [{"nesterov": True}, {"dampening": 0.5}, {"lr_in_velocity": False}])
def test_options_of_a_velocity_that_is_not_there_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}="):
        lp.Layerwise([weight()], direction="heavy_ball", rule="trust_ratio", lr=0.1, **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lp.LAMB, lp.LAMBC, lp.PercentDelta, lp.Layca])
def test_a_method_takes_only_its_own_keywords(make: type[lp.Layerwise]) -> None:
    with pytest.raises(TypeError, match="lr_in_velocity"):
        make([weight()], lr=0.1, lr_in_velocity=True)


@pytest.mark.parametrize("key", ["eps", "trust_clip", "direction", "lr_in_velocity", "min_rms"])
def test_an_option_of_something_else_is_refused_in_a_group(key: str) -> None:
    with pytest.raises(TypeError, match=f"{key}.*group 0"):
        lp.LARS([{"params": [weight()], key: 1.0}], lr=0.1)


def test_a_schedule_may_bring_nesterovs_momentum_to_zero() -> None:
    def make(params: list[Tensor]) -> lp.Layerwise:
        return lp.Layerwise(params, direction="sgd", rule="identity", lr=0.1, momentum=0.9, nesterov=True)

    w, reference = weight(), weight()
    optimizer = make([w])
    twin = torch.optim.SGD([reference], lr=0.1, momentum=0.9, nesterov=True)
    cycles = {"base_lr": 0.1, "max_lr": 0.1, "step_size_up": 2, "base_momentum": 0.0, "max_momentum": 0.8}
    pairs = [(o, torch.optim.lr_scheduler.CyclicLR(o, **cycles)) for o in (optimizer, twin)]  # type: ignore[arg-type]
    seen = set()
    for step in range(9):
        give_gradient(w, step)
        give_gradient(reference, step)
        seen.add(optimizer.param_groups[0]["momentum"])
        for one, schedule in pairs:
            one.step()
            schedule.step()
        torch.testing.assert_close(w, reference, rtol=1e-13, atol=1e-13)
    assert 0.0 in seen
    assert len(seen) > 2
    optimizer.param_groups[0]["momentum"] = 0.0
    fresh = make([weight()])
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_of_any_method_may_pass_through_zero(name: str) -> None:
    for make in (
        lambda ps: lp.LARS(ps, lr=0.1, nesterov=True), lambda ps: lp.PercentDelta(ps, lr=0.1), lambda ps: lp.LAMB(ps),
        lambda ps: lp.Layca(ps, lr=0.1, momentum=0.9), lambda ps: lp.Layca(ps, lr=0.1, direction="nesterov"),
        lambda ps: lp.Layca(ps, lr=0.1, direction=lp.directions.RMSProp(momentum=0.9)),
    ):  # fmt: skip
        w = weight()
        optimizer = make([w])
        options: dict[str, Any] = {"max_lr": 0.1, "base_momentum": 0.0, "max_momentum": 0.8}
        options |= {"total_steps": 6} if name == "OneCycleLR" else {"base_lr": 0.1, "step_size_up": 2}
        schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
        for step in range(5):
            give_gradient(w, step)
            optimizer.step()
            schedule.step()
        assert torch.isfinite(w).all()


def test_a_group_may_not_misspell_its_glob() -> None:
    with pytest.raises(ValueError, match=r"exclude='\*\.bais' matches no parameter"):
        lp.LARS([{"params": [("a.bias", weight())], "exclude": "*.bais"}], lr=0.1)


@pytest.mark.parametrize("lr", [math.inf, torch.tensor(math.inf)])
def test_an_infinite_rate_is_refused(lr: float | Tensor) -> None:
    with pytest.raises(ValueError, match="lr must be in"):
        lp.LAMB([weight()], lr=lr)


def test_a_parameter_put_into_a_group_by_hand_takes_part() -> None:
    first, second, alone = weight(), weight(seed=3), weight(seed=3)
    optimizer = lp.LAMB([first], lr=0.1)
    optimizer.param_groups[0]["params"] = [second]
    reference = lp.LAMB([alone], lr=0.1)
    for w, o in ((second, optimizer), (alone, reference)):
        give_gradient(w, 0)
        o.step()
    assert torch.equal(second, alone)


def test_refused_gradients_leave_no_empty_state() -> None:
    first, second = weight(), weight(seed=1)
    optimizer = lp.LAMB([first, second], lr=0.1)
    give_gradient(first, 0)
    second.grad = torch.ones_like(second).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert optimizer.state_dict()["state"] == {}


def test_steps_do_not_mind_a_default_device() -> None:
    plain, other = Problem(), Problem()
    one = lp.LAMB(plain.named, lr=0.1, weight_decay=0.1)
    two = lp.LAMB(other.named, lr=0.1, weight_decay=0.1)
    plain.train(one, 2)
    for step in range(2):
        other.set_gradients(step)
        torch.set_default_device("meta")
        try:
            two.step()
        finally:
            torch.set_default_device(None)
    assert_same(plain.weights(), other.weights())


@pytest.mark.parametrize("load_into_cut", [True, False])
def test_a_state_of_other_segments_is_refused_whole(load_into_cut: bool) -> None:
    w, other = weight(), weight()
    cut = lp.LAMB([("w", w)], lr=0.1, segments={"w": 3})
    whole = lp.LAMB([("w", other)], lr=0.2)
    for tensor, optimizer in ((w, cut), (other, whole)):
        give_gradient(tensor, 0)
        optimizer.step()
    if load_into_cut:  # one count serves all segments
        cut.load_state_dict(whole.state_dict())
        assert cut.state[w]["step"].shape == (6, 1)
        return
    before = snapshot(whole)
    with pytest.raises(ValueError, match="step of w"):
        whole.load_state_dict(cut.state_dict())
    assert_same(snapshot(whole), before)


def test_the_state_of_another_method_is_a_value_error() -> None:
    a, b = weight(), weight()
    lamb, lars = lp.LAMB([a], lr=0.1), lp.LARS([b], lr=0.1)
    give_gradient(a, 0)
    lamb.step()
    with pytest.raises(ValueError, match="another method"):
        lars.load_state_dict(lamb.state_dict())


def test_what_a_torch_checkpoint_does_not_say_stays_as_it_is() -> None:
    ours, theirs = weight(), weight()
    adam = torch.optim.Adam([theirs], lr=0.1)
    give_gradient(theirs, 0)
    adam.step()
    optimizer = lp.Layerwise(
        [{"params": [ours], "lr_multiplier": 0.5}], direction="adam", rule="identity", lr=0.2, weight_decay=0.0
    )
    optimizer.load_state_dict(adam.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["lr_multiplier"] == 0.5
    assert torch.equal(optimizer.state[ours]["exp_avg"], adam.state[theirs]["exp_avg"])


# wrap


def test_a_wrapped_optimizer_with_segments_takes_a_step_of_rate_zero() -> None:
    for rule in ("rotation", "trust_ratio"):
        w = weight()
        optimizer = lp.wrap(torch.optim.SGD([("w", w)], lr=0.1), rule, segments={"w": [2, 4]})
        schedule = lp.schedules.warmup(optimizer, steps=2)
        before = w.detach().clone()
        give_gradient(w, 0)
        optimizer.step()
        assert torch.equal(w.detach(), before)
        schedule.step()
        optimizer.step()
        assert not torch.equal(w.detach()[:2], before[:2])
        assert not torch.equal(w.detach()[2:], before[2:])


def test_a_wrapped_group_has_its_multiplier_for_excluded_tensors_too() -> None:
    bias = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = lp.wrap(torch.optim.SGD([{"params": [bias], "lr_multiplier": 0.25}], lr=0.1), "rotation")
    bias.grad = torch.ones_like(bias)
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, 1 - 0.025))


def test_a_wrapped_group_has_its_own_exclusion_and_segments() -> None:
    excluded, cut = weight(), weight(seed=1)
    groups = [{"params": [excluded], "exclude": True}, {"params": [cut], "segments": 3}]
    optimizer = lp.wrap(torch.optim.SGD(groups, lr=0.1), "rotation")
    before = cut.detach().clone()
    for w in (excluded, cut):
        give_gradient(w, 2)
    expected = excluded.detach() - 0.1 * excluded.grad
    optimizer.step()
    torch.testing.assert_close(excluded.detach(), expected)
    for part in range(3):
        rows = slice(2 * part, 2 * part + 2)
        assert turned(before[rows], cut.detach()[rows]) == pytest.approx(math.atan(0.1), rel=1e-6)


def test_a_wrapped_state_of_other_segments_is_refused() -> None:
    w, other = weight(), weight()
    cut = lp.wrap(torch.optim.SGD([("w", w)], lr=0.1), "rotation", segments={"w": 3})
    whole = lp.wrap(torch.optim.SGD([("w", other)], lr=0.1), "rotation")
    give_gradient(w, 0)
    cut.step()
    with pytest.raises(ValueError, match="segments"):
        whole.load_state_dict(cut.state_dict())


def test_copies_of_a_wrapped_optimizer_with_a_lambda() -> None:
    optimizer = lp.wrap(torch.optim.SGD([("w", weight())], lr=0.1), "rotation", exclude=lambda name, p: name == "w")
    assert copy.deepcopy(optimizer)._exclude is optimizer._exclude
    assert pickle.loads(pickle.dumps(optimizer)).rule == lp.rules.Rotation()


def test_a_rate_of_shape_one_serves_a_wrapped_number() -> None:
    number = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = lp.wrap(torch.optim.SGD([number], lr=torch.tensor([0.1])), "percent_delta")
    number.grad = torch.ones_like(number)
    optimizer.step()
    assert float(number.detach()) == pytest.approx(0.9)
