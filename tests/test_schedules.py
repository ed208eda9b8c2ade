"""Each schedule equals its equation at every step, for any optimizer, and resumes exactly from its state."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

import layerpace as lp

Make = Callable[[torch.optim.Optimizer], LRScheduler]
BASES = (0.5, 0.03)


def two_groups(kind: str = "sgd", tensor_lr: bool = False) -> torch.optim.Optimizer:
    params = [torch.nn.Parameter(torch.full((3, 2), 1.0, dtype=torch.float64)) for _ in BASES]
    for param in params:
        param.grad = torch.full_like(param, 0.25)
    lrs = [torch.tensor(lr, dtype=torch.float64) if tensor_lr else lr for lr in BASES]
    groups = [{"params": [param], "lr": lr} for param, lr in zip(params, lrs, strict=True)]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups, lr=0.1, foreach=False),
        "lars": lambda: lp.LARS(groups, lr=0.1),
        "layca": lambda: lp.Layca(groups, lr=0.1),
    }
    return make[kind]()


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(optimizer: torch.optim.Optimizer, schedule: LRScheduler, steps: int) -> list[list[float]]:
    """The learning rates that the next `steps` optimizer steps use."""
    seen = []
    for _ in range(steps):
        seen.append(rates(optimizer))
        optimizer.step()
        schedule.step()
    return seen


# Each schedule with its multiplier of the base learning rate, written again from the papers' equations.
CLOSED_FORMS: dict[str, tuple[Make, Callable[[int], float]]] = {
    "linear": (lambda o: lp.schedules.linear_decay(o, 0.125), lambda t: max(0.01, 1 - t * 0.125)),
    "linear to zero": (lambda o: lp.schedules.linear_decay(o, 0.2, floor=0.0), lambda t: max(0.0, 1 - t / 5)),
    "linear flat": (lambda o: lp.schedules.linear_decay(o, 0.0), lambda t: 1.0),
    "warmup": (lambda o: lp.schedules.warmup(o, 4), lambda t: min(1.0, t / 4)),
    "warmup from a tenth": (
        lambda o: lp.schedules.warmup(o, 5, start=0.1),
        lambda t: 0.1 + 0.9 * t / 5 if t < 5 else 1.0,
    ),
    "warmup of nothing": (lambda o: lp.schedules.warmup(o, 0), lambda t: 1.0),
    "polynomial": (lambda o: lp.schedules.polynomial_decay(o, 9), lambda t: (1 - min(t, 9) / 9) ** 2),
    "polynomial with a floor": (
        lambda o: lp.schedules.polynomial_decay(o, 8, power=1.5, floor=0.2),
        lambda t: 0.2 + 0.8 * (1 - min(t, 8) / 8) ** 1.5,
    ),
    "polynomial after warmup": (
        lambda o: lp.schedules.polynomial_decay(o, 10, warmup_steps=3),
        lambda t: t / 3 if t < 3 else (1 - (min(t, 10) - 3) / 7) ** 2,
    ),
    "drops": (
        lambda o: lp.schedules.step_drops(o, at=(6, 3, 9)),
        lambda t: 0.2 ** sum(t >= at for at in (3, 6, 9)),
    ),
    "drops after warmup": (
        lambda o: lp.schedules.warmup(o, 2, after=lp.schedules.step_drops(o, at=[4], factor=0.5)),
        lambda t: t / 2 if t < 2 else (1.0 if t - 2 < 4 else 0.5),
    ),
    "decay after warmup": (
        lambda o: lp.schedules.warmup(o, 3, after=lp.schedules.linear_decay(o, 0.25)),
        lambda t: t / 3 if t < 3 else max(0.01, 1 - (t - 3) * 0.25),
    ),
}
closed_forms = pytest.mark.parametrize(("make", "multiplier"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
makers = pytest.mark.parametrize("make", [make for make, _ in CLOSED_FORMS.values()], ids=CLOSED_FORMS)


@closed_forms
@pytest.mark.parametrize("kind", ["sgd", "adam", "lars", "layca"])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_every_group_follows_the_equation(
    make: Make, multiplier: Callable[[int], float], kind: str, tensor_lr: bool
) -> None:
    optimizer = two_groups(kind, tensor_lr)
    lr_objects = [group["lr"] for group in optimizer.param_groups]
    schedule = make(optimizer)
    assert isinstance(schedule, LRScheduler)
    for t, seen in enumerate(run(optimizer, schedule, 14)):
        assert seen == pytest.approx([base * multiplier(t) for base in BASES], rel=1e-14, abs=1e-17), t
    assert schedule.last_epoch == 14
    assert [float(lr) for lr in schedule.get_last_lr()] == rates(optimizer)
    if tensor_lr:  # changed in place: a compiled step keeps reading the same tensor
        for group, lr in zip(optimizer.param_groups, lr_objects, strict=True):
            assert group["lr"] is lr


def test_linear_decay_is_equation_10_of_percent_delta() -> None:
    optimizer = two_groups()
    m, beta = 1 / 200, 0.01
    seen = run(optimizer, lp.schedules.linear_decay(optimizer, m), 260)
    for t, row in enumerate(seen):
        assert row == pytest.approx([base * max(beta, 1 - t * m) for base in BASES], rel=1e-14)
    assert seen[197][0] > seen[199][0] == seen[259][0]
    assert seen[259][0] == pytest.approx(0.5 * beta)


def test_zero_is_not_a_trap() -> None:
    """A chainable schedule multiplies the last rate and cannot leave 0; a closed form can."""
    optimizer = two_groups()
    schedule = lp.schedules.warmup(optimizer, 2, start=0.0)
    assert [row[0] for row in run(optimizer, schedule, 4)] == [0.0, 0.25, 0.5, 0.5]


AFTER: dict[str, Make] = {
    "constant": lambda o: ConstantLR(o, factor=0.5, total_iters=3),
    "step": lambda o: StepLR(o, 2, gamma=0.5),
    "multistep": lambda o: MultiStepLR(o, [1, 4], gamma=0.5),
    "linear": lambda o: LinearLR(o, 1.0, 0.1, total_iters=5),
    "exponential": lambda o: ExponentialLR(o, 0.7),
    "polynomial": lambda o: PolynomialLR(o, 6, power=2.0),
    "cosine": lambda o: CosineAnnealingLR(o, 5),
    "warm restarts": lambda o: CosineAnnealingWarmRestarts(o, 3, T_mult=2),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "cyclic with momentum": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "one cycle": lambda o: OneCycleLR(o, 0.4, total_steps=30),
    "lambda": lambda o: LambdaLR(o, lambda t: 1 / (1 + t)),
    "sequential": lambda o: SequentialLR(o, [ConstantLR(o, 0.5, 2), ExponentialLR(o, 0.5)], [3]),
    "chained": lambda o: ChainedScheduler([ExponentialLR(o, 0.9), StepLR(o, 2, gamma=0.5)]),
    "another warm-up": lambda o: lp.schedules.warmup(o, 3, after=CosineAnnealingLR(o, 5), start=0.5),
    "our polynomial": lambda o: lp.schedules.polynomial_decay(o, 5),
}
afters = pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)


@afters
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_warmup_hands_over_to_any_schedule_at_its_own_first_step(after: Make, steps: int, tensor_lr: bool) -> None:
    alone = two_groups(tensor_lr=tensor_lr)
    expected = run(alone, after(alone), 12)
    expected_momentum = alone.param_groups[0]["momentum"]
    optimizer = two_groups(tensor_lr=tensor_lr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = lp.schedules.warmup(optimizer, steps, after=after(optimizer), start=0.2)
        seen = run(optimizer, schedule, steps + 12)
    ramp = [[first * (0.2 + 0.8 * t / steps) for first in expected[0]] for t in range(steps)]
    assert seen[:steps] == [pytest.approx(row, rel=1e-14) for row in ramp]
    assert seen[steps:] == expected
    assert optimizer.param_groups[0]["momentum"] == expected_momentum
    assert schedule.last_epoch == steps + 12
    assert [float(lr) for lr in schedule.get_last_lr()] == rates(optimizer)


def test_warmup_before_reduce_on_plateau_passes_the_metric_on() -> None:
    optimizer = two_groups()
    schedule = lp.schedules.warmup(optimizer, 2, after=ReduceLROnPlateau(optimizer, patience=0, factor=0.5))
    seen = []
    for metric in (3.0, 9.0, 3.0, 9.0, 1.0):
        seen.append(rates(optimizer)[0])
        optimizer.step()
        schedule.step(metric)  # type: ignore[arg-type]
    assert seen == [0.0, 0.25, 0.5, 0.5, 0.25]  # the metrics of the warm-up count for nothing
    with pytest.raises(ValueError, match="metric"):
        schedule.step()
    assert schedule.last_epoch == 5


def save_and_open(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


RESUMED = {name: make for name, (make, _) in CLOSED_FORMS.items()} | {
    f"warmup, {name}": (lambda o, after=after: lp.schedules.warmup(o, 4, after=after(o), start=0.25))
    for name, after in AFTER.items()
    if name != "lambda"  # torch saves no lambda: the next test resumes it
}


@pytest.mark.parametrize("make", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("when", [0, 2, 4, 5, 9])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_a_saved_schedule_resumes_exactly(make: Make, when: int, tensor_lr: bool) -> None:
    optimizer = two_groups(tensor_lr=tensor_lr)
    schedule = make(optimizer)
    run(optimizer, schedule, when)
    state = {"schedule": schedule.state_dict(), "optimizer": optimizer.state_dict()}
    frozen = pickle.dumps(state)
    saved = save_and_open(state)
    expected = run(optimizer, schedule, 10)

    fresh = two_groups(tensor_lr=tensor_lr)
    resumed = make(fresh)
    fresh.load_state_dict(saved["optimizer"])  # type: ignore[index]
    before = pickle.dumps(saved["schedule"])  # type: ignore[index]
    resumed.load_state_dict(saved["schedule"])  # type: ignore[index]
    assert pickle.dumps(saved["schedule"]) == before  # type: ignore[index]
    assert resumed.last_epoch == when
    assert run(fresh, resumed, 10) == expected
    assert frozen  # the state pickles, whatever it holds


@pytest.mark.parametrize("when", [2, 5])
def test_a_warmup_before_a_lambda_resumes(when: int) -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return lp.schedules.warmup(optimizer, 4, after=LambdaLR(optimizer, lambda t: 1 / (1 + t)))

    optimizer = two_groups()
    schedule = make(optimizer)
    run(optimizer, schedule, when)
    saved = save_and_open([schedule.state_dict(), optimizer.state_dict()])
    fresh = two_groups()
    resumed = make(fresh)
    fresh.load_state_dict(saved[1])  # type: ignore[index]
    resumed.load_state_dict(saved[0])  # type: ignore[index]
    assert run(fresh, resumed, 8) == run(optimizer, schedule, 8)


@makers
@pytest.mark.filterwarnings("ignore:Seems like:UserWarning")  # torch's, of any unpickled optimizer's schedule
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_by_itself(make: Make, copier: Callable[[LRScheduler], LRScheduler]) -> None:
    optimizer = two_groups()
    schedule = make(optimizer)
    run(optimizer, schedule, 3)
    twin = copier(schedule)
    assert twin.optimizer is not optimizer
    before = rates(optimizer)
    run(twin.optimizer, twin, 5)
    assert rates(optimizer) == before
    run(optimizer, schedule, 5)
    assert rates(optimizer) == rates(twin.optimizer)


def test_a_group_added_on_the_way_is_scheduled_from_its_own_rate() -> None:
    optimizer = two_groups()
    schedule = lp.schedules.linear_decay(optimizer, 0.1)
    run(optimizer, schedule, 3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 2.0})
    run(optimizer, schedule, 1)
    assert rates(optimizer) == pytest.approx([0.3, 0.018, 1.2])

    optimizer = two_groups()
    schedule = lp.schedules.warmup(optimizer, 4, after=lp.schedules.linear_decay(optimizer, 0.1))
    run(optimizer, schedule, 1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 2.0})
    run(optimizer, schedule, 1)
    assert rates(optimizer) == pytest.approx([0.25, 0.015, 1.0])
    run(optimizer, schedule, 4)
    assert rates(optimizer) == pytest.approx([0.4, 0.024, 1.6])


def test_step_takes_the_step_number_as_torch_does() -> None:
    optimizer = two_groups()
    schedule = lp.schedules.linear_decay(optimizer, 0.1)
    optimizer.step()
    with pytest.warns(UserWarning, match="epoch parameter"):
        schedule.step(5)
    assert rates(optimizer) == pytest.approx([0.25, 0.015])


O = two_groups  # noqa: E741
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "slope above 1": (lambda: lp.schedules.linear_decay(O(), 1.5), r"slope must be in \[0, 1\], got 1.5"),
    "slope negative": (lambda: lp.schedules.linear_decay(O(), -0.1), "slope .* got -0.1"),
    "slope nan": (lambda: lp.schedules.linear_decay(O(), float("nan")), "slope .* got nan"),
    "floor above 1": (lambda: lp.schedules.linear_decay(O(), 0.1, floor=2.0), "floor .* got 2.0"),
    "floor negative": (lambda: lp.schedules.linear_decay(O(), 0.1, floor=-1e-9), "floor .* got -1e-09"),
    "warm-up of half a step": (lambda: lp.schedules.warmup(O(), 2.5), "steps .* got 2.5"),  # type: ignore[arg-type]
    "warm-up of -1 step": (lambda: lp.schedules.warmup(O(), -1), "steps .* at least 0, got -1"),
    "warm-up of True": (lambda: lp.schedules.warmup(O(), True), "steps .* got True"),
    "start above 1": (lambda: lp.schedules.warmup(O(), 2, start=1.1), "start .* got 1.1"),
    "start nan": (lambda: lp.schedules.warmup(O(), 2, start=float("nan")), "start .* got nan"),
    "total 0": (lambda: lp.schedules.polynomial_decay(O(), 0), "total_steps .* at least 1, got 0"),
    "power 0": (
        lambda: lp.schedules.polynomial_decay(O(), 9, power=0.0),
        r"power must be in \(0, inf\), got 0.0",
    ),
    "power inf": (lambda: lp.schedules.polynomial_decay(O(), 9, power=float("inf")), "power .* got inf"),
    "polynomial floor": (lambda: lp.schedules.polynomial_decay(O(), 9, floor=1.5), "floor .* got 1.5"),
    "all warm-up": (
        lambda: lp.schedules.polynomial_decay(O(), 9, warmup_steps=9),
        "warmup_steps must be below total_steps = 9.* got 9",
    ),
    "drop at 0": (lambda: lp.schedules.step_drops(O(), at=[0, 2]), "at .* at least 1, got 0"),
    "drop at 1.5": (lambda: lp.schedules.step_drops(O(), at=[1.5]), "at .* got 1.5"),  # type: ignore[list-item]
    "dropped twice": (lambda: lp.schedules.step_drops(O(), at=[3, 3]), "each step once"),
    "factor 0": (
        lambda: lp.schedules.step_drops(O(), at=[3], factor=0.0),
        r"factor must be in \(0, 1\], got 0.0",
    ),
    "factor above 1": (lambda: lp.schedules.step_drops(O(), at=[3], factor=5.0), "factor .* got 5.0"),
    "another optimizer": (
        lambda: lp.schedules.warmup(O(), 2, after=ExponentialLR(O(), 0.5)),
        "another optimizer",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_arguments_leave_the_optimizer_alone() -> None:
    optimizer = two_groups()
    before = [dict(group) for group in optimizer.param_groups]
    for call in (
        lambda: lp.schedules.linear_decay(optimizer, 2.0),
        lambda: lp.schedules.warmup(optimizer, 2, start=2.0),
        lambda: lp.schedules.polynomial_decay(optimizer, 5, power=-1.0),
        lambda: lp.schedules.polynomial_decay(optimizer, 5, warmup_steps=7),
        lambda: lp.schedules.step_drops(optimizer, at=[2], factor=2.0),
    ):
        with pytest.raises(ValueError):
            call()
    assert [dict(group) for group in optimizer.param_groups] == before


def test_wrong_types_are_type_errors() -> None:
    optimizer = two_groups()
    with pytest.raises(TypeError, match="not an Optimizer"):
        lp.schedules.linear_decay(torch.nn.Linear(1, 1), 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="after is a SGD"):
        lp.schedules.warmup(optimizer, 2, after=optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"slope must be a number, got '0\.1'"):
        lp.schedules.linear_decay(optimizer, "0.1")  # type: ignore[arg-type]
    for at in (80, "80"):
        with pytest.raises(TypeError, match="list of steps"):
            lp.schedules.step_drops(optimizer, at=at)  # type: ignore[arg-type]


def test_warmup_takes_only_a_new_schedule() -> None:
    optimizer = two_groups()
    after = ExponentialLR(optimizer, 0.5)
    run(optimizer, after, 3)
    with pytest.raises(ValueError, match="taken 3 steps"):
        lp.schedules.warmup(optimizer, 2, after=after)


@pytest.mark.parametrize("with_after", [False, True])
def test_the_state_of_another_kind_of_warmup_is_refused(with_after: bool) -> None:
    def make(follow: bool) -> LRScheduler:
        optimizer = two_groups()
        return lp.schedules.warmup(optimizer, 3, after=ExponentialLR(optimizer, 0.5) if follow else None)

    schedule = make(with_after)
    before = schedule.state_dict()
    with pytest.raises(ValueError, match="the saved warm-up was with"):
        schedule.load_state_dict(make(not with_after).state_dict())
    assert schedule.state_dict() == before
