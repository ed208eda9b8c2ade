"""The fused step equals the reference to rounding: every direction with every rule, and every option with others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused, needs_kernels
from tests.fused.cases import (
    BUILT_IN,
    COUPLED_ONLY,
    DIRECTIONS,
    LARGE,
    RULES,
    SMALL,
    D,
    R,
    all_dtypes,
    assert_agree,
    built_in,
    copies,
    directions,
    full,
    halves,
    optimizer,
    outcome,
    reference_forbidden,
    rules,
    run,
    train,
    weights,
)

pytestmark = needs_fused


def agree(*arguments: Any, still: tuple[str, ...] = (), loose: float = 1.0, **options: Any) -> None:
    """Both backends run the same, and end alike."""
    expected = run("reference", *arguments, **options)
    assert_agree(run(FUSED, *arguments, **options), expected, still=still, loose=loose)


def still(rule: str, shapes: Any = SMALL) -> tuple[str, ...]:
    """A tensor with one entry has no direction to turn in."""
    return ("one",) if rule == "rotation" and "one" in shapes else ()


@directions
@rules
@full
def test_every_direction_with_every_rule(direction: str, rule: str, dtype: torch.dtype) -> None:
    steps = 8 if direction.startswith("radam") else 3
    agree(direction, rule, dtype=dtype, steps=steps, still=still(rule))


@needs_kernels
@directions
@all_dtypes
def test_every_direction_is_its_own(direction: str, dtype: torch.dtype) -> None:
    """The comparisons of this file would prove nothing if the fused backend left its work to the reference."""
    for rule in BUILT_IN:
        with reference_forbidden():
            run(FUSED, direction, rule, dtype=dtype, steps=1)


VELOCITIES: dict[str, dict[str, Any]] = {
    "heavy": {"momentum": 0.9},
    "average": {"momentum": 0.9, "dampening": None},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "dampened only": {"dampening": 0.5},
}
AFTER_LR = {
    name: {**options, "lr_in_velocity": False} for name, options in VELOCITIES.items() if name != "dampened only"
}


@pytest.mark.parametrize("velocity", VELOCITIES)
@pytest.mark.parametrize("direction", ["sgd", "adam", "adagrad lr_decay"])
@rules
def test_momentum_after_the_rule(rule: str, direction: str, velocity: str) -> None:
    """Each with weight decay of one kind or none, ascent or descent, in one precision, and a rate that changes."""
    number = sum(map(ord, rule + direction + velocity))
    decoupled = None if rule in COUPLED_ONLY else (True, False, None)[number % 3]
    agree(
        direction,
        rule,
        dtype=(torch.float64, torch.float32, torch.bfloat16)[number // 3 % 3],
        steps=4,
        still=still(rule),
        train_options={"lr_factor": 0.7},
        weight_decay=0.1 * (number % 2),
        decoupled_weight_decay=decoupled,
        maximize=number % 5 == 0,
        **VELOCITIES[velocity],
    )


@pytest.mark.parametrize("velocity", AFTER_LR)
@pytest.mark.parametrize("direction", ["sgd", "adam after"])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in COUPLED_ONLY])
@full
def test_a_velocity_without_the_learning_rate(rule: str, direction: str, velocity: str, dtype: torch.dtype) -> None:
    agree(
        direction,
        rule,
        dtype=dtype,
        steps=4,
        train_options={"lr_factor": 0.5},
        weight_decay=0.05,
        **AFTER_LR[velocity],
    )


@rules
@pytest.mark.parametrize("direction", ["sgd", "nesterov", "adam", "rmsprop all", "adamax"])
@pytest.mark.parametrize("kind", ["decoupled", "coupled", "ascent"])
def test_weight_decay_and_ascent(rule: str, direction: str, kind: str) -> None:
    if kind == "decoupled" and rule in COUPLED_ONLY:
        pytest.skip("a rule that fixes the step has no decoupled decay")
    options = {"maximize": True} if kind == "ascent" else {"decoupled_weight_decay": kind == "decoupled"}
    for dtype in (torch.float64, torch.float32):
        agree(direction, rule, dtype=dtype, still=still(rule), weight_decay=0.1, **options)


@directions
@halves
@pytest.mark.parametrize("mode", ["master", "plain"])
def test_weights_in_half_precision(direction: str, dtype: torch.dtype, mode: str) -> None:
    number = sum(map(ord, direction)) + (mode == "plain")
    for rule in (BUILT_IN[number % 5], BUILT_IN[(number + 2) % 5]):
        agree(direction, rule, dtype=dtype, low_precision=mode, still=still(rule), loose=1 if mode == "master" else 50)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("direction", ["sgd", "heavy ball", "adam", "nadam", "rmsprop all"])
@built_in
@all_dtypes
def test_tensors_of_several_chunks(direction: str, rule: str, dtype: torch.dtype) -> None:
    agree(direction, rule, shapes=LARGE, dtype=dtype, steps=2)


@directions
@full
def test_vectors_and_numbers_under_a_rule(direction: str, dtype: torch.dtype) -> None:
    """Nothing is left out of the rule, or half of the tensors are."""
    for rule, exclude in itertools.product(("trust ratio", "percent delta"), (None, ["*1*", "conv", "rows"])):
        agree(direction, rule, dtype=dtype, exclude=exclude, weight_decay=0.01)


@rules
def test_the_floor_of_small_weights(rule: str) -> None:
    for min_rms in (0.0, 0.5, 10.0):
        # Under min_rms = 0 weights of zero stay zero, or divide by zero.
        shapes = {name: shape for name, shape in SMALL.items() if min_rms or name != "zeros"}
        agree("adam", rule, shapes=shapes, min_rms=min_rms, still=still(rule))


@pytest.mark.parametrize("direction", ["heavy ball dampened", "adam", "adagrad lr_decay", "radam soon", "nadam"])
@rules
@full
def test_gradients_that_come_and_go(direction: str, rule: str, dtype: torch.dtype) -> None:
    """Parameters count their own steps: one joins late, one is left out now and then, one never moves."""

    def absent(name: str, step: int) -> bool:
        return (name == "16" and step < 3) or (name == "conv" and step % 2 == 1) or name == "31"

    options = {"absent": absent}
    agree(direction, rule, dtype=dtype, steps=6, train_options=options, still=("31", *still(rule)))


@pytest.mark.parametrize("direction", ["nesterov", "adam", "rmsprop all", "radam soon"])
@rules
@full
def test_groups_with_options_of_their_own(direction: str, rule: str, dtype: torch.dtype) -> None:
    """Three groups in one optimizer: rate, decay, ascent and the direction's own numbers differ."""
    own = {
        "nesterov": {"momentum": 0.5},
        "adam": {"betas": (0.5, 0.7), "eps": 1e-2, "eps_inside_sqrt": True},
        "rmsprop all": {"alpha": 0.5, "centered": False},
        "radam soon": {"betas": (0.7, 0.8)},
    }[direction]
    number, lr = RULES[rule]
    results = []
    for backend in ("reference", FUSED):
        params = weights(dtype=dtype)
        start, names = copies(params), list(params)
        method = optimizer(backend, dict(list(params.items())[:5]), DIRECTIONS[direction], number, lr=lr)
        segments = {"rows": "rows", "equal": 4, "unequal": [1, 4, 2]}
        for part, options in (
            (names[5:9], {"lr": lr / 3, "weight_decay": 0.1, **own}),
            (names[9:], {"lr_multiplier": 0.5, "maximize": True, "segments": segments}),
        ):
            method.add_param_group({"params": [(name, params[name]) for name in part], **options})
        train(method, params, 7 if direction.startswith("radam") else 3)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0], still=still(rule))


@built_in
@all_dtypes
def test_a_learning_rate_of_zero_moves_nothing(rule: str, dtype: torch.dtype) -> None:
    """Gradients that are not zero fill the moments; a rotation alone puts zeros on their sphere."""
    moves = ("zeros",) if rule == "rotation" else ()
    for direction in ("sgd", "adam", "amsgrad"):
        still = tuple(name for name in SMALL if name not in moves and name != "empty")
        shapes = {name: shape for name, shape in SMALL.items() if name not in moves}
        agree(direction, rule, shapes=shapes, dtype=dtype, lr=0.0, still=still)


@built_in
@full
def test_zero_gradients(rule: str, dtype: torch.dtype) -> None:
    """Sums of zero: no step, and no nan."""
    results = []
    for backend in ("reference", FUSED):
        params = weights(dtype=dtype)
        start = copies(params)
        method = optimizer(backend, params, D.Adam(), rule)
        for _ in range(2):
            for p in params.values():
                p.grad = torch.zeros_like(p)
            method.step()
        results.append(outcome(start, params, method))
    everything = tuple(name for name in SMALL if name != "empty")
    assert_agree(results[1], results[0], still=everything)
    assert all(bool(torch.isfinite(w).all()) for w in results[1].weights.values())


@built_in
@full
def test_global_clip_and_skipped_layers(rule: str, dtype: torch.dtype) -> None:
    """inf in one tensor and nan in one row of another, in one step of three; the others are clipped together."""
    for direction, nonfinite in itertools.product(("sgd", "adam", "heavy ball dampened"), ("propagate", "skip")):
        results = []
        for backend in ("reference", FUSED):
            params = weights(dtype=dtype)
            start = copies(params)
            options = {} if direction == "heavy ball dampened" else {"momentum": 0.5}
            method = optimizer(
                backend, params, DIRECTIONS[direction], rule, nonfinite=nonfinite, max_grad_norm=3.0, **options
            )
            train(method, params, 1)
            for name, p in params.items():
                p.grad = torch.full_like(p, 0.3)
                if nonfinite == "skip" and name == "17":
                    p.grad[3] = float("inf")
                if nonfinite == "skip" and name == "rows":
                    p.grad[2, 1] = float("nan")
            method.step()
            train(method, params, 1, first=2)
            results.append(outcome(start, params, method))
        assert_agree(results[1], results[0], still=still(rule))


@built_in
def test_every_tensor_learning_rate_is_read(rule: str) -> None:
    number, lr = RULES[rule]
    agree("adam", number, lr=torch.tensor(lr), still=still(rule))
    agree("adam", number, lr=torch.tensor([lr], dtype=torch.float64), still=still(rule), weight_decay=0.1)


@pytest.mark.parametrize("mixed", [(torch.float32, torch.float64), (torch.bfloat16, torch.float32, torch.float16)])
def test_dtypes_side_by_side(mixed: tuple[torch.dtype, ...]) -> None:
    results = []
    for backend in ("reference", FUSED):
        params: dict[str, torch.Tensor] = {}
        for k, dtype in enumerate(mixed):
            params |= {
                f"{k} {name}": w.detach().clone().requires_grad_() for name, w in weights(dtype=dtype, seed=k).items()
            }
        start = copies(params)
        method = optimizer(backend, params, D.Adam(), R.TrustRatio(), lr=0.02, max_grad_norm=2.0)
        train(method, params, 3)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])
