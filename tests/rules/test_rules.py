"""Every direction with every rule, against float64 versions of both; then the options of the rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.oracles import clips, common, directions, rules
from torch import Tensor

import layerpace as lp

STEPS = 10
TOLERANCE = 1e-10
WITH_MOMENTUM = ("heavy_ball", "nesterov", "rmsprop")  # of their own, before the rule
# The step that a rule makes of lr: a share of the layer for all but the identity.
LR = {
    "identity": 1e-3,
    "trust_ratio": 0.01,
    "percent_delta": 0.005,
    "relative_l1": 0.01,
    "rotation": 0.03,
    "limited_norm": 0.03,
}


def oracle_step(
    w: Tensor,
    g: Tensor,
    state: common.State,
    *,
    lr: float,
    direction: str,
    rule: str,
    direction_options: Mapping[str, Any] | None = None,
    rule_options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    min_rms: float = 1e-3,
    adapt: bool = True,
) -> Tensor:
    """Direction, rule, velocity. Where the rule does not fold decay, it is coupled: g + lambda*w."""
    if not adapt:
        weight_decay = 0.0
    if weight_decay and not decoupled:
        g = g + weight_decay * w
    u = directions.DIRECTIONS[direction](g, state.setdefault("direction", {}), **(direction_options or {}))
    displacement = rules.RULES[rule] if adapt else rules.identity
    d = displacement(
        w,
        u,
        state.setdefault("rule", {}),
        lr=lr,
        weight_decay=weight_decay if decoupled else 0.0,
        min_rms=min_rms,
        **((rule_options or {}) if adapt else {}),
    )
    return common.move(w, d, state, momentum, dampening, nesterov)


def check(
    keywords: Mapping[str, Any],
    *,
    direction: str,
    rule: str,
    steps: int = STEPS,
    names: tuple[str, ...] = common.ALL,
    seed: int = 3,
    **oracle: Any,
) -> None:
    task = common.problem(seed=seed, names=names)
    expected = common.train_oracle(
        task,
        functools.partial(oracle_step, direction=direction, rule=rule, **oracle),
        steps,
        options=lambda name: {"lr": LR[rule]},
        adapted=lambda name: rule not in rules.ONE_DIMENSIONAL_EXCLUDED or name in common.MATRICES,
    )
    params = common.parameters(task)
    options = {"direction": direction, "rule": rule, "lr": LR[rule], "backend": "reference", **keywords}
    optimizer = lp.Layerwise(params.items(), **options)
    got = common.train_library(task, params, optimizer, steps)
    common.assert_same(got, expected, TOLERANCE)


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("direction", directions.DIRECTIONS)
def test_direction_and_rule(direction: str, rule: str) -> None:
    check({}, direction=direction, rule=rule)


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("direction", directions.DIRECTIONS)
def test_direction_and_rule_with_weight_decay_and_velocity(direction: str, rule: str) -> None:
    options: dict[str, Any] = {"weight_decay": 0.1}
    if direction not in WITH_MOMENTUM:
        options |= {"momentum": 0.5, "nesterov": True}
    check(options, direction=direction, rule=rule, decoupled=rule in rules.DECOUPLED, **options)


@pytest.mark.parametrize("direction", WITH_MOMENTUM)
def test_momentum_before_and_after_the_rule_at_once_is_refused(direction: str) -> None:
    """Both would be the group's "momentum"."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"momentum=0\.5"):
        lp.Layerwise([p], direction=direction, rule="trust_ratio", lr=0.1, momentum=0.5)


@pytest.mark.parametrize("rule", rules.RULES)
def test_coupled_weight_decay_on_request(rule: str) -> None:
    check(
        {"weight_decay": 0.1, "decoupled_weight_decay": False},
        direction="adam",
        rule=rule,
        weight_decay=0.1,
        decoupled=False,
    )


@pytest.mark.parametrize("rule", [rule for rule in rules.RULES if rule not in rules.DECOUPLED])
def test_decoupled_weight_decay_is_refused_where_a_rule_cannot_fold_it(rule: str) -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"(?i)weight.decay"):
        lp.Layerwise([p], direction="sgd", rule=rule, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True)


@pytest.mark.parametrize("rule", rules.RULES)
def test_dampened_velocity(rule: str) -> None:
    options = {"momentum": 0.9, "dampening": 0.9}
    check(options, direction="sgd", rule=rule, **options)


# Bounds that bind, in the ten steps of these tests.
CLIPS: dict[str, tuple[lp.rules.ClipRule, clips.Clip]] = {
    "clip_running": (lp.rules.RunningBounds(warmup=3, start=0.1), clips.running(1.0, 0.99, 3, 0.1, False)),
    "clip_running_two_sided": (
        lp.rules.RunningBounds(0.5, 0.5, 2, math.inf, two_sided=True),
        clips.running(0.5, 0.5, 2, math.inf, True),
    ),
    "clip_tightening": (lp.rules.TighteningBounds(0.1, 0.5), clips.tightening(0.1, 0.5)),
    "clip_falling": (lp.rules.FallingBound(0.5, 0.02, 6), clips.falling(0.5, 0.02, 6, "geometric")),
    "clip_falling_linear": (
        lp.rules.FallingBound(0.5, 0.02, 6, course="linear"),
        clips.falling(0.5, 0.02, 6, "linear"),
    ),
}
TRUST_OPTIONS: dict[str, dict[str, Any]] = {
    "coefficient": {"coefficient": 0.3},
    "eps": {"eps": 0.1},
    "norm_sum": {"norm": "sum"},
    "norm_direction": {"norm": "direction"},
    "norm_total": {"norm": "total"},
    "clip_upper": {"clip": 0.1},
    "clip_pair": {"clip": (0.05, 0.1)},
    "clip_pair_below": {"clip": (3.0, 5.0)},
    "clip_larc": {"clip": lp.rules.LARCClip(), "coefficient": 1e-3},
    **{name: {"clip": clip} for name, (clip, _) in CLIPS.items()},
    "zero_ratio": {"zero_ratio": 1.0},
    "not_always": {"always_adapt": False},
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", TRUST_OPTIONS)
def test_trust_ratio_options(name: str, weight_decay: float) -> None:
    options = TRUST_OPTIONS[name]
    mirrored = {("norm_of" if key == "norm" else key): value for key, value in options.items()}
    if "larc" in name:
        mirrored["clip"] = "larc"
    if name in CLIPS:
        mirrored["clip"] = CLIPS[name][1]
    check(
        {"rule": lp.rules.TrustRatio(**options), "weight_decay": weight_decay},
        direction="adam",
        rule="trust_ratio",
        rule_options=mirrored,
        weight_decay=weight_decay,
    )


@pytest.mark.parametrize("growth", [0.0, 1e-3, 0.1])
def test_limited_norm_growth(growth: float) -> None:
    check({"rule": lp.rules.LimitedNorm(growth)}, direction="sgd", rule="limited_norm", rule_options={"growth": growth})


def test_percent_delta_eps() -> None:
    check(
        {"rule": lp.rules.PercentDelta(eps=0.05)},
        direction="sgd",
        rule="percent_delta",
        rule_options={"eps": 0.05},
    )


DIRECTION_OPTIONS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "heavy_ball": (
        "heavy_ball",
        lp.directions.HeavyBall(momentum=0.7, dampening=0.2),
        {"momentum": 0.7, "dampening": 0.2},
    ),
    "nesterov": ("nesterov", lp.directions.Nesterov(momentum=0.7), {"momentum": 0.7}),
    "ema_momentum": ("ema_momentum", lp.directions.EMAMomentum(beta=0.7), {"beta": 0.7}),
    "adagrad": (
        "adagrad",
        lp.directions.AdaGrad(initial_accumulator_value=0.1, eps=1e-3, lr_decay=0.1),
        {"initial_accumulator_value": 0.1, "eps": 1e-3, "lr_decay": 0.1},
    ),
    "adadelta": ("adadelta", lp.directions.AdaDelta(rho=0.8, eps=1e-3), {"rho": 0.8, "eps": 1e-3}),
    "rmsprop": (
        "rmsprop",
        lp.directions.RMSProp(alpha=0.9, eps=1e-3, centered=True, momentum=0.5),
        {"alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.5},
    ),
    "adam": (
        "adam",
        lp.directions.Adam(betas=(0.8, 0.9), eps=1e-3, bias_correction=False, grad_averaging=False),
        {"betas": (0.8, 0.9), "eps": 1e-3, "bias_correction": False, "grad_averaging": False},
    ),
    "adam_inside": (
        "adam",
        lp.directions.Adam(eps=1e-3, eps_inside_sqrt=True),
        {"eps": 1e-3, "eps_inside_sqrt": True},
    ),
    "adam_amsgrad": ("adam", lp.directions.Adam(amsgrad=True), {"amsgrad": True}),
    "adamax": (
        "adamax",
        lp.directions.AdaMax(betas=(0.8, 0.9), eps=1e-3),
        {"betas": (0.8, 0.9), "eps": 1e-3},
    ),
    "nadam": (
        "nadam",
        lp.directions.NAdam(betas=(0.8, 0.9), eps=1e-3, momentum_decay=0.1),
        {"betas": (0.8, 0.9), "eps": 1e-3, "momentum_decay": 0.1},
    ),
    "radam": (
        "radam",
        lp.directions.RAdam(betas=(0.8, 0.9), eps=1e-3, threshold=4.5),
        {"betas": (0.8, 0.9), "eps": 1e-3, "threshold": 4.5},
    ),
}


@pytest.mark.parametrize("name", DIRECTION_OPTIONS)
def test_direction_options(name: str) -> None:
    direction, instance, options = DIRECTION_OPTIONS[name]
    check({"direction": instance}, direction=direction, rule="trust_ratio", steps=20, direction_options=options)


def test_names_and_objects_are_the_same_rule() -> None:
    objects = {
        "identity": lp.rules.Identity(),
        "trust_ratio": lp.rules.TrustRatio(),
        "percent_delta": lp.rules.PercentDelta(),
        "relative_l1": lp.rules.RelativeL1(),
        "rotation": lp.rules.Rotation(),
        "limited_norm": lp.rules.LimitedNorm(),
    }
    task = common.problem(seed=4)
    for name, rule in objects.items():
        histories = []
        for given in (name, rule):
            params = common.parameters(task)
            optimizer = lp.Layerwise(params.items(), direction=lp.directions.SGD(), rule=given, lr=LR[name])
            histories.append(common.train_library(task, params, optimizer, 3))
        assert all(torch.equal(histories[0][-1][layer], w) for layer, w in histories[1][-1].items())


def test_the_rules_differ() -> None:
    """As many trajectories as rules: the cross product above does not compare one rule again and again."""
    task = common.problem(seed=4, names=common.MATRICES)
    ends = []
    for rule in rules.RULES:
        params = common.parameters(task)
        optimizer = lp.Layerwise(params.items(), direction="sgd", rule=rule, lr=0.1)
        ends.append(common.train_library(task, params, optimizer, 3)[-1])
    for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
            # a limited norm is the trust ratio's, as long as it falls
            assert any(not torch.equal(one[name], other[name]) for name in common.MATRICES)
