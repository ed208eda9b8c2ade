"""Every method is a full citizen of `torch.optim`: what works with torch's optimizers works with these.

PyTorch's own optimizer tests are the yardstick; the list of methods is `tests.methods.METHODS`. What a citizen may
hold is in `test_tensors`, how it is saved in `test_saving`, what it refuses in `test_bad_input`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import (
    METHODS,
    NAMES,
    NATIVE,
    SHAPES,
    Make,
    Problem,
    assert_differ,
    assert_same,
    few,
    methods,
    model_and,
    native,
    of_one_group,
    snapshot,
    train_model,
)
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import layerpace as lp

# Parameters and their groups


@methods
def test_it_is_an_optimizer_that_trains(make: Make) -> None:
    problem = Problem()
    start, weights = problem.loss().item(), problem.weights()
    optimizer = make(problem.params)
    assert isinstance(optimizer, torch.optim.Optimizer)
    problem.train(optimizer, 20)
    assert problem.loss().item() < start
    assert_differ(problem.weights(), weights)
    assert type(optimizer).__name__ in repr(optimizer)


@methods
def test_spellings_of_the_parameters_are_equal(make: Make) -> None:
    results = []
    for spell in (
        lambda p: p.params,
        lambda p: iter(p.params),
        lambda p: (q for q in p.params),
        lambda p: p.named,
        lambda p: iter(p.named),
        lambda p: [{"params": p.params}],
        lambda p: [{"params": p.named}],
        lambda p: [{"params": p.params[:2]}, {"params": iter(p.params[2:])}],
        lambda p: [{"params": q} for q in p.params],
    ):
        problem = Problem()
        problem.train(make(spell(problem)), 3)
        results.append(problem.weights())
    for other in results[1:]:
        assert_same(other, results[0])


@methods
def test_one_tensor_alone_is_refused_as_torch_does(make: Make) -> None:
    with pytest.raises(TypeError):
        make(torch.zeros(3, requires_grad=True))
    with pytest.raises(ValueError):
        make([])
    with pytest.raises(TypeError):
        make([torch.zeros(3, requires_grad=True), "weights"])
    with pytest.raises(ValueError, match="leaf"):
        make([torch.zeros(3, requires_grad=True) * 2])


@methods
def test_named_parameters_are_kept_and_saved(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.named)
    groups, saved = optimizer.param_groups, optimizer.state_dict()["param_groups"]
    assert [name for group in groups for name in group["param_names"]] == list(NAMES)
    assert [param for group in groups for param in group["params"]] == problem.params
    assert [name for group in saved for name in group["param_names"]] == list(NAMES)
    with pytest.raises(ValueError):  # torch: all groups with names, or none
        optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
    assert len(optimizer.param_groups) == len(saved)


@methods
def test_groups_have_their_own_options(make: Make) -> None:
    """Two groups equal two optimizers."""
    key = "weight_decay" if "weight_decay" in make(Problem().params).param_groups[0] else "lr"
    one, a, b = Problem(), Problem(), Problem()
    lr = make(one.params).param_groups[0]["lr"]
    first = {"params": one.params[:2], "lr": lr / 3}
    second = {"params": one.params[2:], key: 0.03}
    one.train(make([first, second]), 4)
    x = make(a.params[:2], lr=lr / 3)
    y = make(b.params[2:], **{key: 0.03})
    a.train(x, 4)
    b.train(y, 4)
    assert_same(one.weights(), [*a.weights()[:2], *b.weights()[2:]])
    default = Problem()
    default.train(make(default.params), 4)
    assert_differ(default.weights()[:2], one.weights()[:2])


@of_one_group
def test_a_group_added_on_the_way_starts_afresh(make: Make) -> None:
    problem, alone = Problem(), Problem()
    optimizer = make(problem.params[:2])
    problem.train(optimizer, 3)
    optimizer.add_param_group({"params": problem.params[2:]})
    problem.train(optimizer, 3, first=3)
    late = make(alone.params[2:])
    alone.train(late, 3, first=3)
    assert_same(problem.weights()[2:], alone.weights()[2:])
    early = Problem()
    early.train(make(early.params[:2]), 6)
    assert_same(problem.weights()[:2], early.weights()[:2])
    assert set(optimizer.param_groups[1]) == set(optimizer.param_groups[0])


# The step


@methods
def test_a_closure_runs_once_with_gradients_on(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer, reference = make(problem.params), make(other.params)
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    for k in range(3):
        expected = problem.loss().item()
        with torch.no_grad() if k == 1 else torch.enable_grad():
            loss = optimizer.step(closure)
        assert loss.item() == expected
        other.loss().backward()
        assert reference.step() is None
        reference.zero_grad()
    assert calls == [True] * 3
    assert_same(problem.weights(), other.weights())


@methods
def test_step_hooks(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    seen: list[str] = []
    before = problem.weights()

    def pre(opt: Any, args: Any, kwargs: Any) -> None:
        assert opt is optimizer
        assert_same(problem.weights(), before)
        seen.append("pre")

    def post(opt: Any, args: Any, kwargs: Any) -> None:
        assert_differ(problem.weights(), before)
        seen.append("post")

    handles = [optimizer.register_step_pre_hook(pre), optimizer.register_step_post_hook(post)]
    problem.train(optimizer, 1)
    assert seen == ["pre", "post"]
    for handle in handles:
        handle.remove()
    everywhere = register_optimizer_step_pre_hook(lambda *_: seen.append("global"))
    problem.train(optimizer, 1)
    everywhere.remove()
    # a wrapper may step the optimizer inside, which has hooks of its own
    assert set(seen[2:]) == {"global"}


@methods
def test_gradients_are_read_only(make: Make) -> None:
    problem = Problem()
    for options in ({}, {"maximize": True}, {"exclude": None}):
        optimizer = make(problem.params, **options)
        for step in range(2):
            problem.set_gradients(step)
            before = [(p.grad, p.grad._version, p.grad.clone()) for p in problem.params]
            optimizer.step()
            for p, (grad, version, value) in zip(problem.params, before, strict=True):
                assert p.grad is grad
                assert grad._version == version  # nor written and put back
                assert torch.equal(grad, value)


@methods
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(make: Make, set_to_none: bool) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    problem.set_gradients(0)
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in problem.params:
        assert p.grad is None if set_to_none else (p.grad is not None and not p.grad.any())
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in problem.params)


@methods
def test_maximize_is_the_step_on_the_negative_gradient(make: Make) -> None:
    up, down = Problem(), Problem()
    climber, reference = make(up.params, maximize=True), make(down.params)
    for step in range(4):
        up.set_gradients(step)
        for p, q in zip(up.params, down.params, strict=True):
            assert p.grad is not None
            q.grad = -p.grad
        climber.step()
        reference.step()
    assert_same(up.weights(), down.weights())


@methods
def test_zero_gradients_without_decay_move_nothing(make: Make) -> None:
    problem = Problem()
    decays = "weight_decay" in make(problem.params).param_groups[0]
    optimizer = make(problem.params, **({"weight_decay": 0.0} if decays else {}))
    before = problem.weights()
    for _ in range(3):
        for p in problem.params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert_same(problem.weights(), before)


@methods
def test_parameters_without_gradients_stay(make: Make) -> None:
    problem, partner = Problem(), Problem()
    optimizer = make(problem.params)
    optimizer.step()  # none has one
    assert_same(problem.weights(), partner.weights())
    assert not optimizer.state
    reference = make([partner.params[0], partner.params[2]])
    for step in range(3):
        problem.set_gradients(step)
        partner.set_gradients(step)
        for k in (1, 3):
            problem.params[k].grad = None
        optimizer.step()
        reference.step()
    assert_same(problem.weights(), partner.weights())
    assert not any(problem.params[k] in optimizer.state for k in (1, 3))
    # a gradient that comes and goes: the others do not notice
    problem.set_gradients(3)
    optimizer.step()
    before = problem.weights()
    problem.set_gradients(4)
    problem.params[1].grad = None
    optimizer.step()
    assert torch.equal(problem.params[1], before[1])
    assert not torch.equal(problem.params[0], before[0])


@methods
def test_frozen_parameters_stay_and_may_thaw(make: Make) -> None:
    problem = Problem()
    problem.params[0].requires_grad_(False)
    optimizer = make(problem.params)
    before = problem.weights()
    for _ in range(2):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
    assert torch.equal(problem.params[0], before[0])
    assert_differ(problem.weights()[1:], before[1:])
    problem.params[0].requires_grad_(True)
    optimizer.zero_grad()
    problem.loss().backward()
    optimizer.step()
    assert not torch.equal(problem.params[0], before[0])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3, dtype=torch.float64)
        self.head = nn.Linear(3, 7, dtype=torch.float64)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embed(tokens))
        return result


@of_one_group
def test_shared_weights_are_one_layer(make: Make) -> None:
    torch.manual_seed(0)
    model = Tied()
    optimizer = make(model.parameters())
    assert len(optimizer.param_groups[0]["params"]) == 2
    before = model.embed.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.arange(7)), torch.arange(7)).backward()
        optimizer.step()
    assert model.head.weight is model.embed.weight
    assert not torch.equal(model.embed.weight, before)
    steps = {float(s["step"]) for s in optimizer.state.values() if "step" in s}
    assert steps <= {3.0}


# Learning rates and schedulers


@methods
def test_a_tensor_learning_rate_equals_a_number(make: Make) -> None:
    a, b = Problem(), Problem()
    number = make(a.params)
    lr = number.param_groups[0]["lr"]
    rate = torch.tensor(lr, dtype=torch.float64)
    try:
        optimizer = make(b.params, lr=rate)
    except ValueError as error:
        pytest.skip(f"the wrapped optimizer takes no tensor here: {error}")
    a.train(number, 3)
    b.train(optimizer, 3)
    for group in number.param_groups:
        group["lr"] = lr / 2
    rate.mul_(0.5)
    a.train(number, 3, first=3)
    b.train(optimizer, 3, first=3)
    assert_same(b.weights(), a.weights())
    assert optimizer.param_groups[0]["lr"] is rate


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=20, cycle_momentum=False),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.05, step_size_up=2, cycle_momentum=False),
    "linear_decay": lambda o: lp.schedules.linear_decay(o, 0.1),
    "polynomial_decay": lambda o: lp.schedules.polynomial_decay(o, 6, warmup_steps=2),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=3),
}


@few
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_set_the_rate_of_each_step(make: Make, schedule: Callable[[Any], Any]) -> None:
    """A scheduled run equals one in which the same rates are written by hand."""
    a, b = Problem(), Problem()
    scheduled, by_hand = make(a.params), make(b.params)
    scheduler = schedule(scheduled)
    rates = set()
    for step in range(6):
        by_hand.param_groups[0]["lr"] = float(scheduled.param_groups[0]["lr"])
        rates.add(by_hand.param_groups[0]["lr"])
        a.train(scheduled, 1, first=step)
        b.train(by_hand, 1, first=step)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    assert len(rates) > 2
    assert_same(a.weights(), b.weights())


@pytest.mark.parametrize(
    "make",
    [METHODS[n] for n in ("LARS", "LAMB", "PercentDelta", "Layca momentum", "wrapped SGD")],
    ids=["LARS", "LAMB", "PercentDelta", "Layca momentum", "wrapped SGD"],
)
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_cyclic_schedulers_move_the_momentum(make: Make, name: str) -> None:
    problem, still = Problem(), Problem()
    optimizer, reference = make(problem.params), make(still.params)
    group = optimizer.param_groups[0]
    key = "betas" if "betas" in optimizer.defaults else "momentum"  # as the schedulers choose
    lr = group["lr"]
    if name == "OneCycleLR":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=8)
    else:
        scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, lr / 2, lr, step_size_up=3, base_momentum=0.5)
    seen = []
    for step in range(6):
        seen.append(group[key] if key == "momentum" else group[key][0])
        problem.train(optimizer, 1, first=step)
        reference.param_groups[0]["lr"] = float(group["lr"])
        still.train(reference, 1, first=step)
        scheduler.step()
    assert len(set(seen)) > 2
    assert_differ(problem.weights()[:1], still.weights()[:1])  # so the momentum was read at each step


@few
def test_averaged_models(make: Make) -> None:
    model, optimizer = model_and(make, 0)
    swa = torch.optim.swa_utils.AveragedModel(model)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    history = []
    for k in range(3):
        train_model(model, optimizer, 1, seed=k)
        swa.update_parameters(model)
        ema.update_parameters(model)
        history.append(model[0].weight.detach().clone())  # type: ignore[index, union-attr]
    torch.testing.assert_close(swa.module[0].weight, sum(history) / 3)
    torch.testing.assert_close(ema.module[0].weight, history[0] / 4 + history[1] / 4 + history[2] / 2)
    assert_differ(history[1:], history[:-1])


@methods
def test_clipping_by_torch(make: Make) -> None:
    a, b = Problem(), Problem()
    one, other = make(a.params), make(b.params)
    for step in range(3):
        a.set_gradients(step)
        b.set_gradients(step)
        norm = torch.nn.utils.clip_grad_norm_(a.params, 0.5)
        assert norm > 0.5
        for p in b.params:
            p.grad.mul_(0.5 / norm)  # type: ignore[union-attr]
        one.step()
        other.step()
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)  # torch adds 1e-6 to the norm


@native
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_max_grad_norm_is_the_clip_inside_of_the_step(make: Make, max_norm: float) -> None:
    a, b = Problem(), Problem()
    one, other = make(a.params, max_grad_norm=max_norm), make(b.params)
    for step in range(4):
        a.set_gradients(step)
        b.set_gradients(step)
        norm = torch.cat([p.grad.reshape(-1) for p in b.params]).norm()  # type: ignore[union-attr]
        assert (norm > max_norm) == (max_norm == 0.5)
        kept = [p.grad.clone() for p in a.params]  # type: ignore[union-attr]
        for p in b.params:
            p.grad.mul_(min(1.0, max_norm / float(norm)))  # type: ignore[union-attr]
        one.step()
        other.step()
        assert_same([p.grad for p in a.params], kept)
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


# Mixed precision


@methods
def test_grad_scaler_equals_training_without(make: Make) -> None:
    """The scale is a power of two, so unscaling loses nothing."""
    a, b = Problem(), Problem()
    scaled, plain = make(a.params), make(b.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(4):
        scaled.zero_grad()
        plain.zero_grad()
        scaler.scale(a.loss()).backward()
        b.loss().backward()
        scaler.step(scaled)
        scaler.update()
        plain.step()
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@methods
@pytest.mark.parametrize("unscale", [False, True], ids=["as it is", "unscaled before"])
@pytest.mark.parametrize("when", [0, 2])
def test_a_step_that_grad_scaler_skips_changes_nothing(make: Make, unscale: bool, when: int) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    problem.train(optimizer, when)
    before = snapshot(optimizer)
    fresh = not before[1]["state"]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    problem.set_gradients(when)
    problem.params[1].grad[2] = torch.inf  # type: ignore[index]
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    after = snapshot(optimizer)
    assert_same(after[0], before[0])
    if not fresh:  # a first step may leave zeros
        assert_same(after[1], before[1])
    problem.train(optimizer, 3, first=when)
    reference = Problem()
    reference.train(make(reference.params), when + 3)
    for p, q in zip(problem.params, reference.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
        assert float(optimizer.state[p].get("step", when + 3)) == when + 3


@methods
def test_a_skipped_step_among_others_changes_nothing(make: Make) -> None:
    a, b = Problem(), Problem()
    scaled, plain = make(a.params), make(b.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    scaler.scale(torch.ones(()))
    for step in range(6):
        a.set_gradients(step)
        for p in a.params:
            p.grad.mul_(scaler.get_scale())  # type: ignore[union-attr]
        if step in (0, 3):
            a.params[0].grad[0, 0] = torch.nan  # type: ignore[index]
        scaler.step(scaled)
        scaler.update()
        if step not in (0, 3):
            b.train(plain, 1, first=step)
    for p, q in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
        assert float(scaled.state[p].get("step", 4)) == 4


# Nothing in a step waits for the device


META_OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "skip": {"nonfinite": "skip"},
    "clip": {"max_grad_norm": 1.0},
    "maximize, adapt all": {"maximize": True, "exclude": None},
    "segments": {"segments": {"first.weight": 2, "conv.weight": [1, 1], "first.bias": "rows"}},
    "plain": {"low_precision": "plain"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "options"),
    [pytest.param(make, {}, id=name) for name, make in NATIVE.items()]
    + [
        pytest.param(NATIVE[name], options, id=f"{name}, {label}")
        for label, options in META_OPTIONS.items()
        for name in ("LARS", "LAMB", "PercentDelta", "Layca momentum", "radam, relative L1")
        if options
    ],
)
def test_no_value_on_the_device_is_read(make: Make, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Tensors of the meta device have no values: reading one, to branch or to make a number of it, fails."""
    params = [
        (name, torch.empty(shape, device="meta", dtype=dtype).requires_grad_())
        for name, shape in zip(NAMES, SHAPES, strict=True)
    ]
    optimizer = make(params, **options)
    for step in range(3):
        for _, p in params:
            p.grad = torch.empty_like(p)
        if step == 2:
            optimizer.param_groups[0]["lr"] = torch.empty((), device="meta")
        optimizer.step()


def test_a_step_under_grad_scaler_reads_nothing_either() -> None:
    params = [torch.empty(shape, device="meta").requires_grad_() for shape in SHAPES]
    optimizer = lp.LAMB(params)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.grad_scale = torch.empty((), device="meta")  # type: ignore[attr-defined]
    optimizer.found_inf = torch.empty((), device="meta")  # type: ignore[attr-defined]
    for _ in range(2):
        optimizer.step()


def test_the_meta_device_does_notice_a_read() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.empty((), device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.empty(3, device="meta").any())
    problem = [torch.empty((2, 3), device="meta").requires_grad_()]
    problem[0].grad = torch.empty_like(problem[0])
    with pytest.raises((RuntimeError, NotImplementedError)):
        lp.LAMB(problem, nonfinite="raise").step()  # the one option that must look
