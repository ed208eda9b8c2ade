"""The overview slides' own forms, as options, against a float64 transcription of each slide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.oracles import common, slides

import layerpace as lp

STEPS = 50
ETA = 1e-3
TOLERANCE = 1e-10

# slide -> (transcription, direction, keywords beside lr and rule="identity")
SLIDES: dict[str, tuple[Callable[..., torch.Tensor], dict[str, Any]]] = {
    "momentum": (slides.momentum, {"direction": lp.directions.HeavyBall(momentum=0.9)}),
    "momentum_as_velocity": (slides.momentum, {"direction": "sgd", "momentum": 0.9}),
    "ema_momentum": (slides.ema_momentum, {"direction": lp.directions.EMAMomentum(beta=0.9)}),
    "adagrad": (
        functools.partial(slides.adagrad, eps=1e-2),
        {"direction": lp.directions.AdaGrad(eps=1e-2, eps_inside_sqrt=True)},
    ),
    "rmsprop": (
        functools.partial(slides.rmsprop, beta=0.9, eps=1e-2),
        {"direction": lp.directions.RMSProp(alpha=0.9, eps=1e-2, eps_inside_sqrt=True)},
    ),
    "centered_rmsprop": (
        functools.partial(slides.centered_rmsprop, beta=0.9, eps=1e-2),
        {"direction": lp.directions.RMSProp(alpha=0.9, eps=1e-2, centered=True, eps_inside_sqrt=True)},
    ),
    "adam": (functools.partial(slides.adam, eps=1e-2), {"direction": lp.directions.Adam(eps=1e-2)}),
    "adam_algorithm": (
        functools.partial(slides.adam, eps=1e-2, inside=True),
        {"direction": lp.directions.Adam(eps=1e-2, eps_inside_sqrt=True)},
    ),
    "radam": (slides.radam, {"direction": lp.directions.RAdam(threshold=4.0, eps=0.0)}),
    "radam_crossing_4": (
        functools.partial(slides.radam, beta2=0.9),
        {"direction": lp.directions.RAdam(betas=(0.9, 0.9), threshold=4.0, eps=0.0)},
    ),
}


def run(transcription: Callable[..., torch.Tensor], keywords: dict[str, Any], steps: int = STEPS) -> Any:
    task = common.problem(seed=5)

    def step(w: torch.Tensor, g: torch.Tensor, state: common.State, *, lr: float, adapt: bool) -> torch.Tensor:
        return transcription(w, g, state, eta=lr)

    expected = common.train_oracle(task, step, steps, options=lambda name: {"lr": ETA})
    params = common.parameters(task)
    optimizer = lp.Layerwise(params.items(), rule="identity", lr=ETA, **keywords)
    return common.train_library(task, params, optimizer, steps), expected


@pytest.mark.parametrize("name", SLIDES)
def test_slide(name: str) -> None:
    got, expected = run(*SLIDES[name])
    common.assert_same(got, expected, TOLERANCE)


def test_slide_adadelta_has_no_learning_rate() -> None:
    task = common.problem(seed=5)

    def step(w: torch.Tensor, g: torch.Tensor, state: common.State, *, lr: float, adapt: bool) -> torch.Tensor:
        return slides.adadelta(w, g, state)

    expected = common.train_oracle(task, step, STEPS, options=lambda name: {"lr": 1.0})
    params = common.parameters(task)
    optimizer = lp.Layerwise(params.items(), direction="adadelta", rule="identity", lr=1.0)
    common.assert_same(common.train_library(task, params, optimizer, STEPS), expected, TOLERANCE)


@pytest.mark.parametrize(
    "keywords",
    [
        {"direction": lp.directions.Nesterov(momentum=0.9)},
        {"direction": "sgd", "momentum": 0.9, "nesterov": True},
    ],
    ids=["direction", "velocity"],
)
def test_slide_nesterov_at_the_point_where_the_gradient_is_taken(keywords: dict[str, Any]) -> None:
    """The slide keeps theta and looks ahead; the optimizer keeps theta + mu*v, where the gradient is."""
    task = common.problem(seed=5)
    params = common.parameters(task)
    optimizer = lp.Layerwise(params.items(), rule="identity", lr=ETA, **keywords)
    got = common.train_library(task, params, optimizer, STEPS)
    expected: list[common.Weights] = [{} for _ in range(STEPS)]
    for name, theta in task.initial.items():
        state: common.State = {}
        for t in range(STEPS):
            theta = slides.nesterov(
                theta, lambda at, name=name, t=t: task.gradient(name, at, t), state, eta=ETA, mu=0.9
            )
            expected[t][name] = theta + 0.9 * state["v"]
    common.assert_same(got, expected, TOLERANCE)


@pytest.mark.parametrize(
    ("slide", "torch_form"),
    [
        ("adagrad", lp.directions.AdaGrad(eps=1e-2)),
        ("rmsprop", lp.directions.RMSProp(alpha=0.9, eps=1e-2)),
        ("centered_rmsprop", lp.directions.RMSProp(alpha=0.9, eps=1e-2, centered=True)),
        ("radam_crossing_4", lp.directions.RAdam(betas=(0.9, 0.9))),
    ],
)
def test_the_slides_form_differs_from_torchs(slide: str, torch_form: Any) -> None:
    """So that the tests above would fail if an option did nothing."""
    got, expected = run(SLIDES[slide][0], {"direction": torch_form}, steps=10)
    with pytest.raises(AssertionError, match="relative error"):
        common.assert_same(got, expected, 1e-6)
