"""LARS, LAMB, LAMBC, PercentDelta and Layca against float64 versions of their papers, 50 steps each.

One list of methods times one list of options; an option names the methods that it applies to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.oracles import common, directions, lamb, lars, layca, percent_delta

import layerpace as lp

STEPS = 50
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Method:
    """A method: its optimizer, its oracle, and the learning rate of these tests."""

    optimizer: Callable[..., torch.optim.Optimizer]
    step: common.Step
    lr: float
    adapts_vectors: bool = False
    oracle_options: Mapping[str, Any] = field(default_factory=dict)


def on_reference(cls: Callable[..., lp.Layerwise], **options: Any) -> Callable[..., lp.Layerwise]:
    """The backend that defines the meaning; tests/fused/test_oracles.py has the fused one take the same steps."""
    return functools.partial(cls, backend="reference", **options)


def layca_with(name: str, lr: float, direction: Any, oracle: Callable[..., torch.Tensor]) -> Method:
    return Method(
        on_reference(lp.Layca, **direction),
        functools.partial(layca.step, direction=oracle),
        lr,
    )


METHODS: dict[str, Method] = {
    "lars": Method(on_reference(lp.LARS), lars.step, 2.0),
    "lamb": Method(on_reference(lp.LAMB), lamb.step, 0.01),
    "lambc": Method(on_reference(lp.LAMBC), lamb.step, 0.01, oracle_options={"trust_clip": 1.0}),
    "percent_delta": Method(on_reference(lp.PercentDelta), percent_delta.step, 0.005, adapts_vectors=True),
    "layca_sgd": layca_with("sgd", 0.03, {}, directions.sgd),
    "layca_heavy_ball": layca_with("heavy_ball", 0.03, {"momentum": 0.9}, directions.heavy_ball),
    "layca_heavy_ball_object": layca_with(
        "heavy_ball",
        0.03,
        {"direction": lp.directions.HeavyBall(momentum=0.8, dampening=0.5)},
        functools.partial(directions.heavy_ball, momentum=0.8, dampening=0.5),
    ),
    "layca_ema_momentum": layca_with("ema_momentum", 0.03, {"direction": "ema_momentum"}, directions.ema_momentum),
    "layca_adam": layca_with("adam", 0.03, {"direction": "adam"}, directions.adam),
    "layca_rmsprop": layca_with("rmsprop", 0.03, {"direction": "rmsprop"}, directions.rmsprop),
    "layca_adagrad": layca_with("adagrad", 0.03, {"direction": "adagrad"}, directions.adagrad),
}
TRUST = ("lars", "lamb", "lambc")
LAMBS = ("lamb", "lambc")
LAYCAS = tuple(name for name in METHODS if name.startswith("layca"))


@dataclass(frozen=True)
class Variant:
    """An option: keywords for the optimizer, and what they mean in the oracle's terms."""

    methods: Sequence[str] = tuple(METHODS)
    keywords: Mapping[str, Any] = field(default_factory=dict)  # for the optimizer
    oracle: Mapping[str, Any] | None = None  # for the oracle; None: the same keywords
    schedule: tuple[float, float | None] | None = None  # slope and floor of equations 9 and 10
    excluded: Sequence[str] | None = None  # None: the method's default
    segments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]] = ((common.ALL, {}),)
    maximize: bool = False
    max_grad_norm: float | None = None


def clip(methods: Sequence[str], bound: Any, oracle: Any = None) -> Variant:
    return Variant(methods, {"trust_clip": bound}, {"trust_clip": bound if oracle is None else oracle})


EXCLUDE_GLOB = Variant(
    keywords={"exclude": ["*.bias", "gain", "head.*"]},
    oracle={},
    excluded=("conv.bias", "head.bias", "gain", "head.weight"),
)
SEGMENT_SIZES = {"qkv.weight": (2, 2, 2), "conv.weight": (1, 3), "head.weight": (1, 1, 1)}
SEGMENTS = {"q*.weight": 3, "conv.weight": [1, 3], "head.weight": "rows"}
TWO_GROUPS = (
    (("conv.weight", "conv.bias", "gain"), {"lr": 3e-3}),
    (("qkv.weight", "norm.weight", "head.weight", "head.bias"), {}),
)

VARIANTS: dict[str, Variant] = {
    "defaults": Variant(),
    "linear_decay": Variant(schedule=(0.01, 0.01)),
    "linear_decay_to_floor": Variant(schedule=(0.05, 0.2)),
    "linear_decay_eq9": Variant(schedule=(0.015, None)),
    "weight_decay": Variant((*TRUST, "percent_delta"), {"weight_decay": 0.1}),
    "weight_decay_scheduled": Variant((*TRUST, "percent_delta"), {"weight_decay": 0.1}, schedule=(0.01, 0.01)),
    "clip_upper": clip(TRUST, 0.3),
    "clip_pair": clip(TRUST, (0.05, 0.5)),
    "clip_none": clip(LAMBS, None),
    "clip_larc": clip(("lars",), lp.rules.LARCClip(), "larc"),
    "clip_lars_acts": clip(("lars",), 1e-3),
    "exclude_glob": EXCLUDE_GLOB,
    "exclude_predicate": Variant(
        keywords={"exclude": lambda name, p: name == "conv.weight" or p.ndim == 0},
        oracle={},
        excluded=("conv.weight", "gain"),
    ),
    "exclude_nothing": Variant(keywords={"exclude": None}, oracle={}, excluded=()),
    "exclude_empty": Variant(("lars", "layca_sgd"), {"exclude": ()}, {}, excluded=()),
    "segments": Variant(keywords={"segments": SEGMENTS}, oracle={}, segments=SEGMENT_SIZES),
    "nesterov": Variant(("lars",), {"nesterov": True}),
    "nesterov_scheduled": Variant(("lars",), {"nesterov": True}, schedule=(0.01, 0.01)),
    "dampening": Variant(("lars", "percent_delta"), {"dampening": 0.3}),
    "heavy_ball": Variant(("percent_delta",), {"dampening": 0.0, "lr": 5e-4}),
    "no_momentum": Variant(("lars", "percent_delta"), {"momentum": 0.0}),
    "trust_coefficient": Variant(("lars",), {"trust_coefficient": 0.01, "eps": 1e-3, "momentum": 0.5}),
    "betas_and_eps": Variant(LAMBS, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "no_bias_correction": Variant(LAMBS, {"bias_correction": False}),
    "eps_inside_sqrt": Variant(LAMBS, {"eps_inside_sqrt": True, "eps": 1e-3}),
    "algorithm_1": Variant(
        LAMBS, {"eps_inside_sqrt": True, "decay_in_norm": False, "weight_decay": 0.1, "trust_clip": 0.5}
    ),
    "no_grad_averaging": Variant(LAMBS, {"grad_averaging": False}),
    "adapt_decayed_only": Variant(
        LAMBS,
        {"always_adapt": False},
        groups=(
            (("conv.weight", "head.weight"), {"weight_decay": 0.1}),
            (("qkv.weight", "conv.bias", "norm.weight", "head.bias", "gain"), {"weight_decay": 0.0}),
        ),
    ),
    "two_learning_rates": Variant(groups=TWO_GROUPS, schedule=(0.01, 0.01)),
    "two_weight_decays": Variant(
        (*TRUST, "percent_delta"),
        groups=(
            (("conv.weight", "conv.bias"), {"weight_decay": 0.3, "lr": 2e-3}),
            (("qkv.weight", "norm.weight", "head.weight", "head.bias", "gain"), {"weight_decay": 0.0}),
        ),
    ),
    "maximize": Variant(keywords={"maximize": True}, oracle={}, maximize=True),
    "papers_text": Variant(keywords={"min_rms": 0.0}, oracle=None),
    "min_rms_acts": Variant(keywords={"min_rms": 0.05, "exclude": None}, oracle={"min_rms": 0.05}, excluded=()),
    "global_clip": Variant(keywords={"max_grad_norm": 2.0}, oracle={}, max_grad_norm=2.0),
    "global_clip_idle": Variant(TRUST, {"max_grad_norm": 1e6}, {}, max_grad_norm=1e6),
    "everything_trust": Variant(
        TRUST,
        {
            "weight_decay": 0.1,
            "trust_clip": (1e-4, 0.5),
            "exclude": ["*.bias", "gain"],
            "segments": SEGMENTS,
            "maximize": True,
        },
        {"weight_decay": 0.1, "trust_clip": (1e-4, 0.5)},
        schedule=(0.01, 0.01),
        excluded=("conv.bias", "head.bias", "gain"),
        segments=SEGMENT_SIZES,
        groups=TWO_GROUPS,
        maximize=True,
    ),
    "everything_percent_delta": Variant(
        ("percent_delta",),
        {"weight_decay": 0.1, "exclude": "*.bias", "segments": SEGMENTS, "momentum": 0.5},
        {"weight_decay": 0.1, "momentum": 0.5},
        schedule=(0.01, 0.01),
        excluded=("conv.bias", "head.bias"),
        segments=SEGMENT_SIZES,
        groups=TWO_GROUPS,
    ),
    "everything_layca": Variant(
        LAYCAS,
        {"exclude": ["*.bias", "gain"], "segments": SEGMENTS, "maximize": True},
        {},
        schedule=(0.01, 0.01),
        excluded=("conv.bias", "head.bias", "gain"),
        segments=SEGMENT_SIZES,
        groups=TWO_GROUPS,
        maximize=True,
    ),
}
CASES = [
    pytest.param(method, variant, id=f"{method}-{variant}")
    for variant, options in VARIANTS.items()
    for method in options.methods
]


@pytest.mark.parametrize(("method_name", "variant_name"), CASES)
def test_agrees_with_the_paper(method_name: str, variant_name: str) -> None:
    method, variant = METHODS[method_name], VARIANTS[variant_name]
    # PercentDelta's zero tensor would cross zero forever under min_rms = 0, where eq. 6 is ill-conditioned.
    names = [
        name
        for name in common.ALL
        if not (method_name == "percent_delta" and variant_name == "papers_text" and name == "head.bias")
    ]
    task = common.problem(seed=1, names=names)
    keywords = {"lr": method.lr, **variant.keywords}

    of_group = {name: options for group, options in variant.groups for name in group}
    for_oracle = variant.keywords if variant.oracle is None else variant.oracle
    excluded = variant.excluded
    if excluded is None:
        excluded = () if method.adapts_vectors else common.VECTORS
    expected = common.train_oracle(
        task,
        method.step,
        STEPS,
        options=lambda name: {
            "lr": method.lr,
            **method.oracle_options,
            **for_oracle,
            **of_group[name],
        },
        adapted=lambda name: name not in excluded,
        segments=variant.segments,
        gamma=(lambda t: 1.0) if variant.schedule is None else common.linear_decay(*variant.schedule),
        maximize=variant.maximize,
        max_grad_norm=variant.max_grad_norm,
    )

    params = common.parameters(task)
    groups = [
        {"params": [(name, params[name]) for name in group if name in params], **options}
        for group, options in variant.groups
    ]
    optimizer = method.optimizer(groups, **keywords)
    scheduler = None
    if variant.schedule is not None:
        slope, floor = variant.schedule
        scheduler = lp.schedules.linear_decay(optimizer, slope, floor=floor or 0.0)
    got = common.train_library(task, params, optimizer, STEPS, scheduler=scheduler)

    common.assert_same(got, expected, TOLERANCE)
    min_rms = float(keywords.get("min_rms", 1e-3))
    for name, w in task.initial.items():
        if w.numel() == 1 and method_name in LAYCAS and name not in excluded:
            assert torch.equal(got[-1][name], w), "a line has no direction to turn in"
            continue
        moved = common.norm(expected[-1][name] - w) / common.norm(w).clamp(min=1e-300)
        assert moved > 1e-6, f"{name} did not move, so nothing was compared"
        if method_name == "percent_delta" and name not in excluded and (w * w).mean().sqrt() > min_rms:
            assert bool((torch.sign(expected[-1][name]) == torch.sign(w)).all()), f"{name} crossed zero"


def test_lambc_is_lamb_with_the_clip_on() -> None:
    task = common.problem(seed=2)
    histories = []
    for optimizer in (lp.LAMBC, functools.partial(lp.LAMB, trust_clip=1.0)):
        params = common.parameters(task)
        histories.append(common.train_library(task, params, optimizer(params.items(), lr=0.01), 5))
    for ours, theirs in zip(*histories, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("variant", ["clip_upper", "clip_pair", "clip_lars_acts", "global_clip"])
def test_the_bounds_of_these_tests_are_reached(variant: str) -> None:
    """A clip that never acts would be compared with nothing."""
    options = VARIANTS[variant]
    name = "lars" if variant == "clip_lars_acts" else "lamb"
    method = METHODS[name]
    task = common.problem(seed=1)

    def run(**changes: Any) -> list[common.Weights]:
        keywords = {"lr": method.lr, **changes.pop("keywords", {})}
        return common.train_oracle(
            task,
            method.step,
            3,
            options=lambda layer: keywords,
            adapted=lambda layer: layer not in common.VECTORS,
            **changes,
        )

    plain = run()
    changed = run(keywords=dict(options.oracle or {}), max_grad_norm=options.max_grad_norm)
    assert any(not torch.equal(plain[-1][layer], changed[-1][layer]) for layer in common.MATRICES)
