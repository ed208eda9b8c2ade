"""The same bits for any number of threads, in every run, with every instruction set, and on both ways of a step."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused, needs_kernels
from tests.fused.cases import (
    BUILT_IN,
    DIRECTIONS,
    LARGE,
    RULES,
    SMALL,
    Outcome,
    R,
    all_dtypes,
    assert_agree,
    built_in,
    copies,
    directions,
    rules,
    run,
    train,
    weights,
)
from tests.methods import NATIVE, Make, assert_same, native

pytestmark = needs_fused

# Tensors that are done at once, and some that several threads share.
SHAPES = {name: shape for name, shape in {**SMALL, **LARGE}.items() if name != "4099"}
THREADS = (1, 2, 3, 4)


def assert_bits(got: Outcome, expected: Outcome) -> None:
    assert_same(got.weights, expected.weights, "weights")
    assert_same(got.state, expected.state, "state")
    assert any(expected.moved(name) for name in expected.weights), "nothing moved, so nothing was compared"


def train_method(make: Make, dtype: torch.dtype, steps: int = 2, **options: Any) -> Outcome:
    params = weights(SHAPES, dtype)
    start = copies(params)
    method = make(list(params.items()), backend=FUSED, **options)
    train(method, params, steps)
    return Outcome(start, copies(params), {name: dict(method.state[p]) for name, p in params.items()})


@native
@all_dtypes
def test_any_number_of_threads(make: Make, dtype: torch.dtype) -> None:
    outcomes = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        outcomes.append(train_method(make, dtype))
    for other in outcomes[1:]:
        assert_bits(other, outcomes[0])


@directions
def test_any_number_of_threads_for_every_direction(direction: str) -> None:
    rule = BUILT_IN[sum(map(ord, direction)) % len(BUILT_IN)]
    outcomes = []
    for threads in (2, 1, 2):
        torch.set_num_threads(threads)
        outcomes.append(run(FUSED, direction, rule, SHAPES, torch.float32, weight_decay=0.01))
    for other in outcomes[1:]:
        assert_bits(other, outcomes[0])


@native
@pytest.mark.parametrize("options", [{"nonfinite": "skip"}, {"max_grad_norm": 1.0}, {"maximize": True}], ids=str)
def test_any_number_of_threads_with_sums_before_the_step(make: Make, options: dict[str, Any]) -> None:
    outcomes = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        outcomes.append(train_method(make, torch.float32, **options))
    for other in outcomes[1:]:
        assert_bits(other, outcomes[0])


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.bfloat16, {"low_precision": "stochastic"}),
        (torch.float16, {"low_precision": "stochastic"}),
        (torch.bfloat16, {"low_precision": "stochastic", "state_dtype": "bf16"}),
        (torch.float32, {"state_dtype": "bf16"}),
    ],
    ids=["bfloat16", "float16", "bfloat16, moments too", "moments"],
)
@pytest.mark.parametrize("name", ["LAMB", "PercentDelta", "Layca momentum", "adadelta, trust ratio"])
def test_random_rounding_repeats(name: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """`torch.manual_seed` fixes it, whatever the threads; another seed rounds otherwise."""
    outcomes = []
    for seed, threads in ((1, 1), (1, 2), (1, 3), (2, 2)):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        outcomes.append(train_method(NATIVE[name], dtype, **options))
    *same, other = outcomes
    for again in same[1:]:
        assert_bits(again, same[0])
    with pytest.raises(AssertionError):
        assert_bits(other, same[0])


@native
@all_dtypes
def test_from_run_to_run(make: Make, dtype: torch.dtype) -> None:
    """Threads take the chunks of a tensor in another order each time."""
    torch.set_num_threads(4)
    first = train_method(make, dtype, steps=3)
    for _ in range(2):
        assert_bits(train_method(make, dtype, steps=3), first)


@native
def test_where_a_tensor_stands_in_memory_does_not_matter(make: Make) -> None:
    """The same values at addresses that no vector register likes."""

    def shifted(by: int, dtype: torch.dtype) -> Outcome:
        params = {}
        for name, w in weights(SHAPES, dtype).items():
            room = torch.empty(w.numel() + by, dtype=dtype)
            params[name] = room[by:].view(w.shape).copy_(w.detach()).requires_grad_()
        start = copies(params)
        method = make(list(params.items()), backend=FUSED)
        train(method, params, 2)
        return Outcome(start, copies(params), {name: dict(method.state[p]) for name, p in params.items()})

    for dtype in (torch.float32, torch.bfloat16):
        first = shifted(0, dtype)
        for by in (1, 3):
            assert_bits(shifted(by, dtype), first)


@needs_kernels
@directions
@all_dtypes
def test_every_instruction_set(direction: str, dtype: torch.dtype) -> None:
    backend = importlib.import_module(f"layerpace.engine.backends.{FUSED}")
    names = backend.instruction_sets()
    assert names, "at least the one that every machine has"
    number = sum(map(ord, direction))
    for rule in (BUILT_IN[number % 5], BUILT_IN[(number + 1) % 5]):
        outcomes = []
        for name in names:
            with backend.use_instruction_set(name):
                outcomes.append(run(FUSED, direction, rule, SHAPES, dtype, steps=2))
        for other in [*outcomes[1:], run(FUSED, direction, rule, SHAPES, dtype, steps=2)]:
            assert_bits(other, outcomes[0])


@needs_kernels
@native
@pytest.mark.parametrize("mode", ["stochastic", "plain"])
def test_every_instruction_set_rounds_alike(make: Make, mode: str) -> None:
    backend = importlib.import_module(f"layerpace.engine.backends.{FUSED}")
    for dtype in (torch.bfloat16, torch.float16):
        outcomes = []
        for name in backend.instruction_sets():
            torch.manual_seed(0)
            with backend.use_instruction_set(name):
                outcomes.append(train_method(make, dtype, low_precision=mode))
        for other in outcomes[1:]:
            assert_bits(other, outcomes[0])


@needs_kernels
def test_an_instruction_set_that_is_not_there() -> None:
    backend = importlib.import_module(f"layerpace.engine.backends.{FUSED}")
    with pytest.raises(ValueError, match="abacus"), backend.use_instruction_set("abacus"):
        pass


def in_python(rule: R.Rule) -> R.Rule:
    """The same rule as a class of the user's, which no kernel knows."""
    kind = type(rule)
    mine = type(f"My{kind.__name__}", (kind,), {"names": ()})
    made: R.Rule = mine(**{f.name: getattr(rule, f.name) for f in fields(rule)})
    return made


def assert_same_path(mine: Outcome, built: Outcome, rule: R.Rule) -> None:
    """To the bit; but torch's float64 roots may be off by one, which float64 weights and a saved norm show."""
    if isinstance(rule, (R.TrustRatio, R.Rotation)) and any(w.dtype == torch.float64 for w in built.weights.values()):
        return assert_agree(mine, built, still=tuple(name for name in built.weights if not built.moved(name)))
    for name, state in built.state.items():
        if "initial_norm" in state:
            norms = mine.state[name].pop("initial_norm"), state.pop("initial_norm")
            torch.testing.assert_close(*norms, rtol=1e-15, atol=0, msg=f"{name}: initial_norm {norms}")
    assert_bits(mine, built)


@rules
@all_dtypes
def test_a_rule_in_python_takes_the_same_step(rule: str, dtype: torch.dtype) -> None:
    """Sums, rule and update as three calls, or one pass over each tensor while it is in the cache."""
    number, lr = RULES[rule]
    number_of = sum(map(ord, rule))
    for direction in list(DIRECTIONS)[number_of % 3 :: 3]:
        options: dict[str, Any] = {"lr": lr, "weight_decay": 0.01}
        built, mine = (run(FUSED, direction, r, SHAPES, dtype, **options) for r in (number, in_python(number)))
        assert_same_path(mine, built, number)


@built_in
@pytest.mark.parametrize("velocity", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_a_rule_in_python_takes_the_same_step_through_a_velocity(rule: str, velocity: dict[str, Any]) -> None:
    number, lr = RULES[rule]
    for dtype in (torch.float32, torch.bfloat16):
        options = {"lr": lr, "maximize": True, **velocity}
        built, mine = (run(FUSED, "adam", r, SHAPES, dtype, **options) for r in (number, in_python(number)))
        assert_same_path(mine, built, number)


@built_in
def test_tensors_do_not_depend_on_their_neighbours(rule: str) -> None:
    """A tensor in a large optimizer moves as it does alone."""
    together = run(FUSED, "adam", rule, SHAPES, torch.float32)
    for name, shape in SHAPES.items():
        alone = run(FUSED, "adam", rule, {name: shape}, torch.float32)
        assert_same(alone.weights[name], together.weights[name], name)
        assert_same(alone.state[name], together.state[name], name)
