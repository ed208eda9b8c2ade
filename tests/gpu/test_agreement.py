"""The kernels on a GPU agree with the reference there and on the CPU: every direction, rule and option.

A kernel is compiled for each combination, which takes seconds: each direction meets one rule in each dtype here, and
all of them under the mark `slow`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from tests.fused.cases import (
    BUILT_IN,
    COUPLED_ONLY,
    DIRECTIONS,
    RULES,
    SMALL,
    D,
    R,
    assert_agree,
    copies,
    directions,
    full,
    halves,
    optimizer,
    outcome,
    reference_forbidden,
    rules,
    train,
    weights,
)
from tests.gpu.common import DEVICE, SHAPES, agree, needs_gpu, to_host

pytestmark = needs_gpu


def still(rule: str) -> tuple[str, ...]:
    """A tensor with one entry has no direction to turn in."""
    return ("one",) if rule == "rotation" else ()


@directions
@full
def test_every_direction(direction: str, dtype: torch.dtype) -> None:
    rule = BUILT_IN[(sum(map(ord, direction)) + (dtype == torch.float32)) % len(BUILT_IN)]
    steps = 8 if direction.startswith("radam") else 3
    agree(direction, rule, shapes=SHAPES, dtype=dtype, steps=steps, still=still(rule))


@rules
@full
def test_every_rule(rule: str, dtype: torch.dtype) -> None:
    direction = ("adam", "nesterov")[(sum(map(ord, rule)) + (dtype == torch.float32)) % 2]
    agree(direction, rule, shapes=SHAPES, dtype=dtype, still=still(rule))


@pytest.mark.slow
@directions
@rules
@full
def test_every_direction_with_every_rule(direction: str, rule: str, dtype: torch.dtype) -> None:
    steps = 8 if direction.startswith("radam") else 3
    agree(direction, rule, dtype=dtype, steps=steps, still=still(rule))


@pytest.mark.parametrize("direction", ["sgd", "heavy ball", "adam", "nadam", "rmsprop all"])
@halves
@pytest.mark.parametrize("mode", ["master", "plain"])
def test_weights_in_half_precision(direction: str, dtype: torch.dtype, mode: str) -> None:
    rule = BUILT_IN[(sum(map(ord, direction)) + (mode == "plain")) % len(BUILT_IN)]
    loose = 1 if mode == "master" else 50
    agree(direction, rule, shapes=SHAPES, dtype=dtype, low_precision=mode, still=still(rule), loose=loose)


OPTIONS: dict[str, dict[str, Any]] = {
    "decay": {"weight_decay": 0.1},
    "coupled decay": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "ascent": {"maximize": True},
    "left out": {"exclude": ["*1*", "conv", "rows"], "weight_decay": 0.01},
    "nothing left out": {"exclude": None},
    "velocity": {"momentum": 0.9},
    "velocity of averages": {"momentum": 0.9, "dampening": None},
    "nesterov velocity": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "velocity without the rate": {"momentum": 0.9, "lr_in_velocity": False, "weight_decay": 0.1},
    "clipped": {"max_grad_norm": 3.0},
    "skipping": {"nonfinite": "skip"},
    "skipping and clipped": {"nonfinite": "skip", "max_grad_norm": 3.0},
    "counted on the device": {"capturable": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("rule", ["trust ratio", "percent delta"])
def test_options(rule: str, options: dict[str, Any]) -> None:
    if rule in COUPLED_ONLY and options.get("lr_in_velocity") is False:
        pytest.skip("no such velocity under this rule")
    direction = "adam" if sum(map(ord, rule + str(sorted(options)))) % 2 else "sgd"
    agree(direction, rule, shapes=SHAPES, dtype=torch.float32, train_options={"lr_factor": 0.7}, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("there", [True, False], ids=["on the device", "on the host"])
def test_a_learning_rate_that_is_a_tensor(dtype: torch.dtype, there: bool) -> None:
    agree(
        "adam",
        "trust ratio",
        lr_there=lambda device: torch.tensor(0.02, dtype=dtype, device=device if there else "cpu"),
    )


def test_groups_with_options_of_their_own() -> None:
    results = []
    for backend, device in (("reference", "cpu"), ("triton", DEVICE)):
        params = weights(device=device)
        start, names = copies(params), list(params)
        method = optimizer(backend, dict(list(params.items())[:5]), D.Adam(), R.TrustRatio(), lr=0.02)
        segments = {"rows": "rows", "equal": 4, "unequal": [1, 4, 2]}
        for part, options in (
            (names[5:9], {"lr": 0.007, "weight_decay": 0.1, "betas": (0.5, 0.7), "eps": 1e-2}),
            (names[9:], {"lr_multiplier": 0.5, "maximize": True, "segments": segments}),
        ):
            method.add_param_group({"params": [(name, params[name]) for name in part], **options})
        train(method, params, 3)
        results.append(to_host(outcome(start, params, method)))
    assert_agree(results[1], results[0])


@pytest.mark.parametrize("rule", BUILT_IN)
def test_layers_that_are_skipped(rule: str) -> None:
    """inf in one tensor and nan in one row of another, in one step of three; the others are clipped together."""
    for direction, capturable in itertools.product(("sgd", "adam"), (False, True)):
        results = []
        for backend, device in (("reference", "cpu"), ("triton", DEVICE)):
            params = weights(dtype=torch.float32, device=device)
            start = copies(params)
            method = optimizer(
                backend, params, DIRECTIONS[direction], rule,
                nonfinite="skip", max_grad_norm=3.0, momentum=0.5, capturable=capturable,
            )  # fmt: skip
            train(method, params, 1)
            for name, p in params.items():
                p.grad = torch.full_like(p, 0.3)
                if name == "17":
                    p.grad.view(-1)[3] = math.inf
                if name == "rows":
                    p.grad[2, 1] = math.nan
            method.step()
            assert method.state[params["17"]]["step"] == 1
            train(method, params, 1, first=2)
            results.append(to_host(outcome(start, params, method)))
        assert_agree(results[1], results[0], still=still(rule))


@pytest.mark.parametrize("rule", ["identity", "trust ratio"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_that_begin_anywhere(dtype: torch.dtype, state_dtype: str, rule: str) -> None:
    """Rows of 4100 entries begin at multiples of 16 bytes in float32, of 8 in bfloat16; a view begins at one entry."""
    results = []
    for backend, device in (("reference", "cpu"), ("triton", DEVICE)):
        generator = torch.Generator().manual_seed(0)
        room = torch.randn(6 * 4100 + 1, generator=generator, dtype=torch.float64).to(dtype).to(device)
        params = {"rows": room[1:].view(6, 4100).clone(), "view": room[1:].view(6, 4100)}
        for name, p in params.items():  # an optimizer for each: only one of both is aligned
            options = {"segments": {name: "rows"}, "state_dtype": state_dtype, "exclude": None}
            method = optimizer(backend, {name: p.requires_grad_()}, D.Adam(), rule, **options)
            train(method, {name: p}, 1)
        results.append([p.detach().cpu().double() for p in params.values()])
    for got, expected in zip(*results, strict=True):
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got, expected, rtol=2 * eps, atol=2 * eps)


def rows_of_one(dtype: torch.dtype, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """20 000 rows of the same 8 numbers after one step: as the kernels store them, and as float32 would have them."""
    generator = torch.Generator().manual_seed(1)
    start, g = (torch.randn(8, generator=generator).to(dtype) for _ in range(2))
    found = []
    for kind, more in ((dtype, options), (torch.float32, {})):
        p = start.to(kind).expand(20_000, 8).clone().to(DEVICE).requires_grad_()
        p.grad = g.to(kind).expand(20_000, 8).clone().to(DEVICE)
        method = optimizer("triton", {"p": p}, D.Adam(), "identity", lr=0.01, exclude=None, **more)
        torch.manual_seed(0)
        method.step()
        moments = [method.state[p][name].detach().float() for name in ("exp_avg", "exp_avg_sq")]
        found.append(torch.cat([p.detach().float(), *moments], 1).cpu().double())
    return found[0], found[1][0]


@pytest.mark.parametrize(
    ("dtype", "options", "columns"),
    [
        (torch.bfloat16, {"low_precision": "stochastic"}, slice(0, 8)),
        (torch.float16, {"low_precision": "stochastic"}, slice(0, 8)),
        (torch.float32, {"state_dtype": "bf16"}, slice(8, 24)),
    ],
    ids=["bfloat16 weights", "float16 weights", "bfloat16 moments"],
)
def test_rounding_at_random_is_right_on_average(dtype: torch.dtype, options: dict[str, Any], columns: slice) -> None:
    """Two neighbours at most stand in a column, and their mean is the number itself, within 5 standard deviations."""
    stored, exact = rows_of_one(dtype, **options)
    rounded = 0
    for column, value in zip(stored[:, columns].T, exact[columns], strict=True):
        low, high = column.min(), column.max()
        assert (
            len(column.unique()) <= 2
            and low <= value * (1 + 1e-6 * value.sign())
            and high >= value * (1 - 1e-6 * value.sign())
        )
        rounded += int(low < high)
        error = 5 * (high - low) / 2 / math.sqrt(len(column))
        assert abs(column.mean() - value) <= error + 1e-6 * abs(value), f"{column.mean()} for {value}"
    assert rounded >= (columns.stop - columns.start) // 2, "nothing to round"


def test_a_loaded_state_goes_on_with_its_random_numbers() -> None:
    """The seed is saved: what goes on from a file draws what the first run would have drawn."""
    ends = []
    for again in (False, True):
        torch.manual_seed(0)
        params = weights(SMALL, torch.bfloat16, device=DEVICE)
        options: dict[str, Any] = {"low_precision": "stochastic", "state_dtype": "bf16", "lr": 0.02}
        method = optimizer("triton", params, D.Adam(), "identity", **options)
        train(method, params, 2)
        if again:
            saved = method.state_dict()
            torch.manual_seed(1)
            method = optimizer("triton", params, D.Adam(), "identity", **options)
            method.load_state_dict(saved)
        with reference_forbidden():
            train(method, params, 2, first=2)
        ends.append(copies(params))
    for name, w in ends[0].items():
        assert torch.equal(w, ends[1][name]), name


def test_the_list_of_rules_is_whole() -> None:
    """Every rule that the kernels know is in these tests."""
    assert {type(rule) for rule, _ in RULES.values()} == set(R.ALL)
