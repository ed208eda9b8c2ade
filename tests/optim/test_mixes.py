"""A method per param group: each group trains as it would alone, in one optimizer, one plan and one state dict."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_same, save_and_open
from torch import Tensor

import layerpace as lp
from layerpace.engine.backends.cpu import available

D, R = lp.directions, lp.rules
SHAPES = ((7, 5), (6, 4), (3, 8), (9,), (11,))
BACKENDS = ["reference", *(["cpu"] if available() else [])]
backends = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(frozen=True)
class Own(R.Rule):
    """A rule without a name."""

    share: float = 0.5

    def columns(self) -> tuple[str, ...]:
        return ("w_l1",)

    def __call__(self, row: Any, layers: Any, state: Any) -> R.Coefficients:
        b = layers.lr * self.share
        return R.Coefficients(c=None, b=b, ratio=torch.full_like(b, self.share))


# (what a group says, the same as an optimizer of its own)
PARTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"direction": "adam", "rule": "identity", "lr": 0.01, "weight_decay": 0.1},
     {"direction": "adam", "rule": "identity", "lr": 0.01, "weight_decay": 0.1}),
    ({"direction": "sgd", "rule": R.Rotation(), "lr": 0.05},
     {"direction": "sgd", "rule": "rotation", "lr": 0.05}),
    ({"rule": "trust_ratio", "clip": 2.0, "weight_decay": 0.01, "betas": (0.8, 0.99), "momentum": 0.5},
     {"direction": D.Adam(betas=(0.8, 0.99)), "rule": R.TrustRatio(clip=2.0), "weight_decay": 0.01, "momentum": 0.5}),
    ({"direction": D.RAdam(), "rule": "percent_delta", "lr": 0.03},
     {"direction": D.RAdam(), "rule": "percent_delta", "lr": 0.03}),
    ({"direction": "heavy_ball", "momentum": 0.7, "rule": Own(0.3)},
     {"direction": D.HeavyBall(0.7), "rule": Own(0.3)}),
]  # fmt: skip
LR = 0.02


def mixed(problem: Problem, **options: Any) -> lp.Layerwise:
    groups = [{"params": [(f"w{k}", p)], **PARTS[k][0]} for k, p in enumerate(problem.params)]
    return lp.Layerwise(groups, direction="adam", rule="identity", lr=LR, **options)


def alone(problem: Problem, **options: Any) -> list[lp.Layerwise]:
    return [lp.Layerwise([(f"w{k}", p)], **{"lr": LR, **PARTS[k][1], **options}) for k, p in enumerate(problem.params)]


def train_both(
    steps: int, a: Problem, mix: lp.Layerwise, b: Problem, parts: list[lp.Layerwise], first: int = 0
) -> None:
    a.train(mix, steps, first=first)
    for step in range(first, first + steps):
        b.set_gradients(step)
        for part in parts:
            part.step()


@backends
@pytest.mark.parametrize(
    "options",
    [{}, {"nonfinite": "skip"}, {"maximize": True}, {"state_dtype": "bf16"}, {"min_rms": 0.5}, {"capturable": True}],
    ids=str,
)
def test_each_group_trains_as_it_would_alone(backend: str, options: dict[str, Any]) -> None:
    a, b = Problem(shapes=SHAPES), Problem(shapes=SHAPES)
    mix, parts = mixed(a, backend=backend, **options), alone(b, backend=backend, **options)
    train_both(6, a, mix, b, parts)
    assert_same(a.weights(), b.weights())
    for k, (p, q) in enumerate(zip(a.params, b.params, strict=True)):
        assert_same(dict(mix.state[p]), dict(parts[k].state[q]))


@backends
def test_segments_and_exclusion_belong_to_groups(backend: str) -> None:
    """A trust ratio leaves vectors out by default, a rotation too; the identity leaves out nothing."""
    a = Problem(shapes=SHAPES)
    mix = lp.Layerwise(
        [
            {"params": [("m", a.params[0]), ("v", a.params[3])], "rule": "trust_ratio", "segments": {"m": "rows"}},
            {"params": [("n", a.params[1]), ("u", a.params[4])], "rule": "identity", "weight_decay": 0.1},
        ],
        direction="sgd",
        rule="rotation",
        lr=LR,
        backend=backend,
    )
    assert [cut.excluded for cut in mix.layers.values()] == [False, True, False, False]
    b = Problem(shapes=SHAPES)
    of = [("m", b.params[0]), ("v", b.params[3])], [("n", b.params[1]), ("u", b.params[4])]
    parts = [
        lp.Layerwise(of[0], direction="sgd", rule="trust_ratio", lr=LR, segments={"m": "rows"}, backend=backend),
        lp.Layerwise(of[1], direction="sgd", rule="identity", lr=LR, weight_decay=0.1, backend=backend),
    ]
    train_both(4, a, mix, b, parts)
    assert_same(a.weights(), b.weights())


@backends
def test_gradients_are_clipped_by_their_joint_norm(backend: str) -> None:
    a, b = Problem(shapes=SHAPES), Problem(shapes=SHAPES)
    mix, parts = mixed(a, backend=backend, max_grad_norm=0.5), alone(b, backend=backend)
    for step in range(4):
        a.set_gradients(step)
        b.set_gradients(step)
        torch.nn.utils.clip_grad_norm_(b.params, 0.5)
        mix.step()
        for part in parts:
            part.step()
    torch.testing.assert_close(a.weights(), b.weights(), rtol=1e-5, atol=1e-7)


def test_a_layer_that_is_skipped_is_the_groups_own() -> None:
    a, b = Problem(shapes=SHAPES), Problem(shapes=SHAPES)
    mix, parts = mixed(a, nonfinite="skip"), alone(b, nonfinite="skip")
    for step in range(5):
        for problem in (a, b):
            problem.set_gradients(step)
            bad = problem.params[step].grad
            assert bad is not None
            bad[0] = torch.inf
        mix.step()
        for part in parts:
            part.step()
    assert_same(a.weights(), b.weights())
    assert all(torch.isfinite(w).all() for w in a.weights())


@backends
def test_a_schedule_writes_into_groups(backend: str) -> None:
    """Rates, decay, betas, momentum, and a rule that is exchanged for one with other numbers."""
    a, b = Problem(shapes=SHAPES), Problem(shapes=SHAPES)
    mix, parts = mixed(a, backend=backend), alone(b, backend=backend)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)) for o in (mix, *parts)]
    for step in range(5):
        train_both(1, a, mix, b, parts, first=step)
        for schedule in schedules:
            schedule.step()
        mix.param_groups[2]["betas"] = parts[2].param_groups[0]["betas"] = (0.8 + step / 100, 0.99)
        mix.param_groups[4]["momentum"] = parts[4].param_groups[0]["momentum"] = 0.7 + step / 100
    plan = mix._cache.plan
    mix.param_groups[2]["rule"] = R.TrustRatio(clip=0.1)
    parts[2].param_groups[0]["rule"] = R.TrustRatio(clip=0.1)
    train_both(2, a, mix, b, parts, first=5)
    assert_same(a.weights(), b.weights())
    assert mix._cache.plan is plan, "numbers alone have changed"


@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
def test_a_mix_is_saved_and_goes_on_to_the_same_bits(how: str) -> None:
    a = Problem(shapes=SHAPES)
    mix = mixed(a)
    a.train(mix, 3)
    if how == "state dict":
        b = Problem(shapes=SHAPES)
        b.params = [p.detach().clone().requires_grad_() for p in a.params]
        other = mixed(b)
        other.load_state_dict(save_and_open(mix.state_dict()))
    else:
        b = copy.deepcopy(a) if how == "deepcopy" else a
        other = copy.deepcopy(mix) if how == "deepcopy" else pickle.loads(pickle.dumps(mix))
        b = copy.copy(a)
        b.params = [p for group in other.param_groups for p in group["params"]]
    assert_same(other.state_dict(), mix.state_dict())
    a.train(mix, 3, first=3)
    b.train(other, 3, first=3)
    assert_same(b.weights(), a.weights())


def test_what_is_saved_is_names_and_numbers() -> None:
    groups = mixed(Problem(shapes=SHAPES)).state_dict()["param_groups"]
    assert [group.get("direction") for group in groups] == ["adam", "sgd", None, "radam", "heavy_ball"]
    assert groups[1]["rule"] == {"name": "rotation"}
    assert groups[2]["rule"] == {
        "name": "trust_ratio", "coefficient": 1.0, "clip": 2.0, "eps": 0.0, "norm": "total", "always_adapt": True,
        "zero_ratio": None,
    }  # fmt: skip
    assert groups[4]["rule"] == {"name": f"{Own.__module__}:Own", "share": 0.3}
    running = lp.Layerwise(
        [{"params": [torch.zeros(2, 2, requires_grad=True)], "rule": R.TrustRatio(clip=R.RunningBounds(warmup=2))}],
        direction="sgd",
        rule="identity",
        lr=0.1,
    )
    clip = running.state_dict()["param_groups"][0]["rule"]["clip"]
    assert clip["name"] == "running" and clip["warmup"] == 2
    running.load_state_dict(save_and_open(running.state_dict()))
    assert running.param_groups[0]["rule"] == R.TrustRatio(clip=R.RunningBounds(warmup=2))


def test_saved_numbers_of_a_method_are_taken_over() -> None:
    def make(clip: float, beta: float) -> lp.Layerwise:
        group = {"params": [torch.ones(2, 2, requires_grad=True)], "direction": D.Adam(betas=(beta, 0.99))}
        return lp.Layerwise([{**group, "rule": R.TrustRatio(clip=clip)}], direction="sgd", rule="identity", lr=0.1)

    first, second = make(2.0, 0.5), make(3.0, 0.6)
    second.load_state_dict(save_and_open(first.state_dict()))
    assert second.param_groups[0]["rule"].clip == 2.0 and second.param_groups[0]["betas"] == (0.5, 0.99)


def test_a_state_without_methods_loads_into_groups_that_have_them() -> None:
    """As one of the first version is, whose optimizer had the method that the group has now."""
    a, b = Problem(shapes=SHAPES[:1]), Problem(shapes=SHAPES[:1])
    old = lp.Layerwise([("w", a.params[0])], direction="adam", rule="rotation", lr=0.1)
    a.train(old, 3)
    group = {"params": [("w", b.params[0])], "direction": "adam", "rule": "rotation"}
    new = lp.Layerwise([group], direction="sgd", rule="identity", lr=0.3)
    saved = save_and_open(old.state_dict())
    assert not {"direction", "rule"} & saved["param_groups"][0].keys()
    new.load_state_dict(saved)
    with torch.no_grad():
        b.params[0].copy_(a.params[0])
    a.train(old, 2, first=3)
    b.train(new, 2, first=3)
    assert_same(a.weights(), b.weights())


def change(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    groups = [{**state["param_groups"][0], **changes}, *state["param_groups"][1:]]
    return {**state, "param_groups": groups}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"direction": "sgd"}, "the direction is 'sgd' in the state dict and layerpace.directions.adam:Adam here"),
        ({"rule": {"name": "rotation"}}, "the rule is .*Rotation in the state dict and .*Identity here"),
        ({"rule": {"name": "os:system"}}, "rule must be one of .*, got 'os:system'"),
        ({"rule": {"name": "identity", "share": 1}}, r"the rule 'identity' has no option \['share'\]"),
        ({"direction": "nothing"}, "the direction is 'nothing' in the state dict"),
    ],
)
def test_another_method_is_not_loaded(changes: dict[str, Any], says: str) -> None:
    a = Problem(shapes=SHAPES)
    mix = mixed(a)
    a.train(mix, 1)
    before = copy.deepcopy(mix.state_dict())
    with pytest.raises(ValueError, match=says):
        mix.load_state_dict(change(mix.state_dict(), **changes))
    assert_same(mix.state_dict(), before)


@pytest.mark.parametrize(
    ("group", "error", "says"),
    [
        ({"direction": "adm"}, ValueError, r"direction must be one of .*, got 'adm' \(parameter group 1\)"),
        ({"rule": "trust"}, ValueError, r"rule must be one of .*, got 'trust' \(parameter group 1\)"),
        ({"rule": R.TrustRatio}, TypeError, r"rule must be a name or an instance .* \(parameter group 1\)"),
        ({"direction": 3}, TypeError, r"direction must be a name or an instance .* \(parameter group 1\)"),
        ({"rule": "trust_ratio", "clip": -1.0}, ValueError, r"upper bound must be .*-1.0.* \(parameter group 1\)"),
        ({"direction": "adam", "betas": (2.0, 0.9)}, ValueError, r"beta.*2.0.* \(parameter group 1\)"),
        ({"rule": "rotation", "decoupled_weight_decay": True, "weight_decay": 0.1}, ValueError, r"no meaning.*group 1"),
        ({"rule": {"name": "rotaton"}}, ValueError, r"rule must be one of .*, got 'rotaton' \(parameter group 1\)"),
    ],
)
def test_a_wrong_method_names_the_group(group: dict[str, Any], error: type[Exception], says: str) -> None:
    w, v = (torch.zeros(2, 2, requires_grad=True) for _ in range(2))
    make: Callable[[], Any] = lambda: lp.Layerwise(  # noqa: E731
        [{"params": [w]}, {"params": [v], **group}], direction="sgd", rule="identity", lr=0.1
    )
    with pytest.raises(error, match=says):
        make()
    optimizer = lp.Layerwise([{"params": [w]}], direction="sgd", rule="identity", lr=0.1)
    with pytest.raises(error, match=says):
        optimizer.add_param_group({"params": [v], **group})
    assert len(optimizer.param_groups) == 1


def test_a_method_may_be_exchanged_before_it_has_taken_a_step_and_not_after() -> None:
    w = torch.ones(2, 2, requires_grad=True)
    w.grad = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    optimizer = lp.Layerwise([w], direction="sgd", rule="identity", lr=0.1)
    optimizer.param_groups[0]["rule"] = "rotation"
    optimizer.step()
    assert w.norm().item() == pytest.approx(2.0, rel=1e-6)
    other = lp.Layerwise([w], direction="sgd", rule="identity", lr=0.1)
    other.step()
    before = w.detach().clone()
    other.param_groups[0]["rule"] = R.Rotation()
    with pytest.raises(RuntimeError, match="initial_norm"):
        other.step()
    assert torch.equal(w, before)


def test_every_optimizer_takes_groups_with_methods_of_their_own() -> None:
    """LAMB with its vectors under AdamW: one optimizer, the numbers of two."""
    a, b = Problem(shapes=SHAPES), Problem(shapes=SHAPES)
    rest = {"direction": "adam", "rule": "identity", "lr": 3e-3, "weight_decay": 0.0}
    one = lp.LAMB([{"params": a.params[:3]}, {"params": a.params[3:], **rest}], lr=LR, weight_decay=0.01)
    two = [
        lp.LAMB(b.params[:3], lr=LR, weight_decay=0.01),
        torch.optim.AdamW(b.params[3:], lr=3e-3, weight_decay=0.0),
    ]
    a.train(one, 6)
    for step in range(6):
        b.set_gradients(step)
        for optimizer in two:
            optimizer.step()
    torch.testing.assert_close(a.weights(), b.weights(), rtol=1e-9, atol=1e-12)
    layca = lp.Layca([{"params": a.params[:3]}, {"params": a.params[3:], **rest}], lr=0.01)
    a.train(layca, 1)
    assert set(layca.state[a.params[0]]) == {"step", "initial_norm"}
    assert set(layca.state[a.params[3]]) == {"step", "exp_avg", "exp_avg_sq"}
    with pytest.raises(ValueError, match=r"momentum=0.9 after the rule is not for this optimizer.*group 1"):
        lp.Layca([{"params": a.params[:3]}, {"params": a.params[3:], **rest, "momentum": 0.9}], lr=0.01)


def test_a_group_without_momentum_takes_none_from_the_optimizers_direction() -> None:
    w = torch.ones(2, 2, requires_grad=True)
    groups = [{"params": [torch.ones(3, 3, requires_grad=True)]}, {"params": [w], "direction": "adam"}]
    optimizer = lp.Layerwise(groups, direction=D.HeavyBall(0.9), rule="identity", lr=0.1)
    assert optimizer.param_groups[0]["momentum"] == 0.9 and optimizer.param_groups[1]["momentum"] == 0.0


# Monitors


def records(model: torch.nn.Module, optimizers: Any, step: Callable[[], None]) -> dict[str, Tensor]:
    with lp.Monitor(model, optimizers, every=1, out=None, initial=None) as monitor:
        for _ in range(3):
            model.zero_grad()
            x = torch.arange(12.0).reshape(4, 3) / 10
            model(x).square().sum().backward()
            step()
    return {name: monitor.history[name] for name in ("relative_update_l2", "trust_ratio", "learning_rate")}


def test_monitors_read_each_groups_rule() -> None:
    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    a, b = network(), network()
    first = {"direction": "sgd", "rule": R.TrustRatio(clip=(0.0, 0.5)), "lr": 0.02}
    second = {"direction": "adam", "rule": "rotation", "lr": 0.05}
    third = {"direction": "adam", "rule": "identity", "lr": 0.01}
    matrices = ["0.weight", "2.weight"]
    of = dict(b.named_parameters())
    parts = [
        lp.Layerwise([(matrices[0], of[matrices[0]])], **first),
        lp.Layerwise([(matrices[1], of[matrices[1]])], **second),
        lp.Layerwise([(n, of[n]) for n in ("0.bias", "2.bias")], **third),
    ]
    of = dict(a.named_parameters())
    mix = lp.Layerwise(
        [
            {"params": [(matrices[0], of[matrices[0]])], **first},
            {"params": [(matrices[1], of[matrices[1]])], **second},
            {"params": [(n, of[n]) for n in ("0.bias", "2.bias")], **third},
        ],
        direction="adam",
        rule="identity",
        lr=1.0,
    )
    found = records(a, mix, mix.step)
    expected = records(b, parts, lambda: [part.step() for part in parts] and None)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-6, atol=0, equal_nan=True, msg=name)
    assert torch.isnan(found["trust_ratio"][:, 1]).all()  # of the identity
    assert not torch.isnan(found["trust_ratio"][:, 0]).any()


# A module in the place of parameters


@pytest.mark.parametrize("cls", [lp.LAMB, lp.LAMBC, lp.LARS, lp.Layca, lp.PercentDelta, lp.Layerwise])
def test_a_module_stands_for_its_named_parameters(cls: Any) -> None:
    options = {"lr": 0.1} | ({"direction": "sgd", "rule": "identity"} if cls is lp.Layerwise else {})
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    names = [name for name, _ in model.named_parameters()]
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for module in (model, torch.nn.DataParallel(model), torch.compile(model), averaged):
        optimizer = cls(module, **options)
        assert optimizer.param_groups[0]["param_names"] == names
    assert optimizer.param_groups[0]["params"][0] is next(averaged.parameters())
    assert cls(model, **options).param_groups[0]["params"][0] is model[0].weight
    assert [cut.name for cut in cls(model, **options, exclude="1.*").layers.values() if cut.excluded] == names[2:]
    with pytest.raises(ValueError, match="the module Tanh has no parameters"):
        cls(torch.nn.Tanh(), **options)


@backends
def test_groups_whose_rules_were_equal_may_part(backend: str) -> None:
    """Two groups of one rule are one set of rows; when a user changes the rule of one of them they are two."""
    a, b = Problem(shapes=SHAPES[:2]), Problem(shapes=SHAPES[:2])

    def groups(problem: Problem) -> list[dict[str, Any]]:
        both = zip(problem.params, ("adam", "sgd"), strict=True)
        return [{"params": [p], "direction": d, "rule": R.TrustRatio(clip=2.0)} for p, d in both]

    mix = lp.Layerwise(groups(a), direction="sgd", rule="identity", lr=LR, backend=backend)
    parts = [lp.Layerwise([g], direction="sgd", rule="identity", lr=LR, backend=backend) for g in groups(b)]
    train_both(3, a, mix, b, parts)
    mix.param_groups[1]["rule"] = parts[1].param_groups[0]["rule"] = R.TrustRatio(clip=0.01)
    train_both(3, a, mix, b, parts, first=3)
    assert_same(a.weights(), b.weights())
