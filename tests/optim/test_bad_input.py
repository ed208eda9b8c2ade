"""Bad input is refused with the value, the range and the group, before anything has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.methods import (
    METHODS,
    NATIVE,
    Make,
    Problem,
    assert_same,
    methods,
    native,
    of_one_group,
    save_and_open,
    snapshot,
)

import layerpace as lp


@methods
def test_unknown_keywords_are_type_errors(make: Make) -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        make(Problem().params, learning_rate=0.1)


NAN = float("nan")
BAD_VALUES: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    # option: (values out of its range, methods that have it)
    "lr": ((-0.1, NAN, torch.tensor(-1.0), torch.tensor(NAN)), ("LARS", "LAMB", "Layca")),
    "weight_decay": ((-0.1, NAN), ("LARS", "LAMB", "PercentDelta", "Layca", "adam, identity")),
    "momentum": ((-0.1, 1.0, 1.5, NAN), ("LARS", "PercentDelta", "Layca", "adam, identity")),
    "dampening": ((-0.5, 1.5, NAN), ("LARS", "PercentDelta", "adam, identity")),
    "eps": ((-1e-8, NAN), ("LARS", "LAMB", "PercentDelta")),
    "betas": (((-0.1, 0.9), (0.9, 1.0), (NAN, 0.9), (0.9, 0.99, 0.999), 0.9), ("LAMB", "LAMBC")),
    "min_rms": ((-1.0, NAN), ("LARS", "LAMB", "PercentDelta", "Layca")),
    "max_grad_norm": ((-1.0, 0.0, NAN), ("LARS", "LAMB", "PercentDelta", "Layca")),
    "trust_coefficient": ((-1.0, 0.0, NAN), ("LARS",)),
    "trust_clip": ((-1.0, NAN, (2.0, 1.0), (-1.0, 1.0)), ("LARS", "LAMB", "LAMBC")),
    "low_precision": (("double", None), ("LARS", "LAMB", "PercentDelta", "Layca")),
    "nonfinite": (("ignore", None), ("LARS", "LAMB", "PercentDelta", "Layca")),
    "backend": (("gpu", None), ("LARS", "LAMB", "PercentDelta", "Layca")),
}


@pytest.mark.parametrize(
    ("key", "value", "make"),
    [
        pytest.param(key, value, NATIVE[name], id=f"{name}-{key}-{value}")
        for key, (values, names) in BAD_VALUES.items()
        for value in values
        for name in names
    ],
)
def test_values_out_of_range_are_named(key: str, value: Any, make: Make) -> None:
    with pytest.raises(ValueError) as error:
        make(Problem().params, **{key: value})
    message = str(error.value)
    assert key in message or (key in ("trust_clip", "betas") and key.split("_")[-1] in message)
    shown = [repr(v) for v in (value if isinstance(value, tuple) else (value,))]
    assert any(text in message for text in [*shown, str(tuple(getattr(value, "shape", "-")))]), message


BAD_DIRECTIONS: list[tuple[type[lp.directions.Direction], dict[str, Any]]] = [
    (lp.directions.HeavyBall, {"momentum": 1.0}),
    (lp.directions.HeavyBall, {"dampening": -0.1}),
    (lp.directions.Nesterov, {"momentum": -0.1}),
    (lp.directions.EMAMomentum, {"beta": 1.0}),
    (lp.directions.AdaGrad, {"lr_decay": -0.1}),
    (lp.directions.AdaGrad, {"initial_accumulator_value": NAN}),
    (lp.directions.AdaGrad, {"eps": -1.0}),
    (lp.directions.AdaDelta, {"rho": 1.5}),
    (lp.directions.AdaDelta, {"eps": NAN}),
    (lp.directions.RMSProp, {"alpha": 1.0}),
    (lp.directions.RMSProp, {"momentum": 1.0}),
    (lp.directions.Adam, {"betas": (1.0, 0.9)}),
    (lp.directions.Adam, {"eps": NAN}),
    (lp.directions.AMSGrad, {"betas": (0.9, -0.9)}),
    (lp.directions.AdaMax, {"betas": (0.9, NAN)}),
    (lp.directions.NAdam, {"momentum_decay": -1.0}),
    (lp.directions.RAdam, {"threshold": 3.0}),
    (lp.directions.RAdam, {"eps": -1.0}),
]


@pytest.mark.parametrize(("cls", "options"), BAD_DIRECTIONS)
def test_directions_check_their_options(cls: Any, options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=key):
        cls(**options)
    # and so does a group that overrides them
    problem = Problem()
    with pytest.raises(ValueError, match=rf"{key}.*group 1"):
        lp.Layerwise(
            [{"params": problem.params[:1]}, {"params": problem.params[1:], key: value}],
            direction=cls(),
            rule="identity",
            lr=0.1,
        )


@pytest.mark.parametrize("key", ["lr", "weight_decay", "momentum", "min_rms", "max_grad_norm"])
@pytest.mark.parametrize("value", ["0.1", None, [0.1], {}, 1j], ids=str)
def test_values_that_are_no_numbers_are_refused(key: str, value: Any) -> None:
    if key == "max_grad_norm" and value is None:
        pytest.skip("None means no clipping")
    with pytest.raises((TypeError, ValueError), match=key):
        lp.LARS(Problem().params, **{"lr": 0.1, key: value})


@pytest.mark.parametrize(
    ("key", "value", "make"),
    [
        pytest.param(key, value, NATIVE[name], id=f"{name}-{key}-{value}")
        for key, value, names in [
            ("lr", -0.1, ("LARS", "LAMB", "PercentDelta", "Layca")),
            ("lr", NAN, ("LARS", "LAMB", "PercentDelta", "Layca")),
            ("weight_decay", -0.5, ("LARS", "LAMB", "PercentDelta", "Layca")),
            ("betas", (0.9, 1.5), ("LAMB", "Layca adam")),
            ("momentum", -0.5, ("LARS", "PercentDelta", "Layca momentum", "rmsprop, rotation")),
            ("lr_multiplier", -1.0, ("LARS", "Layca")),
        ]
        for name in names
    ],
)
def test_errors_name_the_parameter_group(key: str, value: Any, make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.params[:1])
    with pytest.raises(ValueError, match=r"group.*\b1\b|\b1\b.*group"):
        make([{"params": problem.params[:1]}, {"params": problem.params[1:], key: value}])
    # the same in add_param_group, which adds nothing then
    problem.train(optimizer, 1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"group.*\b1\b|\b1\b.*group"):
        optimizer.add_param_group({"params": problem.params[1:], key: value})
    assert_same(snapshot(optimizer), before)
    optimizer.add_param_group({"params": problem.params[1:]})
    problem.train(optimizer, 1)
    # and in a value that is set later, by hand or by a scheduler: before any weight moves
    before = snapshot(optimizer)
    good = optimizer.param_groups[1][key]
    optimizer.param_groups[1][key] = value
    problem.set_gradients(1)
    with pytest.raises(ValueError, match=r"group.*\b1\b|\b1\b.*group"):
        optimizer.step()
    optimizer.param_groups[1][key] = good
    assert_same(snapshot(optimizer), before)
    problem.train(optimizer, 1, first=1)


@native
def test_a_nan_rate_from_a_scheduler_is_refused_before_any_weight_moves(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.params)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float("nan") if t == 2 else 1.0)
    for step in range(2):
        problem.train(optimizer, 1, first=step)
        scheduler.step()
    before = snapshot(optimizer)
    problem.set_gradients(2)
    with pytest.raises(ValueError, match=r"lr.*nan"):
        optimizer.step()
    assert_same(snapshot(optimizer), before)


@of_one_group
def test_keys_of_a_group_that_are_the_users_own_are_kept(make: Make) -> None:
    """As in torch: people note there what a group is."""
    problem, other = Problem(), Problem()
    optimizer = make([{"params": problem.params, "note": "trunk"}])
    optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "note": "head"})
    assert [group["note"] for group in optimizer.param_groups] == ["trunk", "head"]
    saved = save_and_open(optimizer.state_dict())
    loaded = make([{"params": other.params}, {"params": [torch.zeros(2, requires_grad=True)]}])
    loaded.load_state_dict(saved)
    assert [group["note"] for group in loaded.param_groups] == ["trunk", "head"]
    problem.train(optimizer, 1)


@pytest.mark.parametrize("key", ["min_rms", "low_precision", "nonfinite", "max_grad_norm", "backend", "trust_clip"])
def test_options_of_the_whole_optimizer_are_refused_in_a_group(key: str) -> None:
    """Kept and ignored, they would be a silent mistake."""
    with pytest.raises((TypeError, ValueError), match=key):
        lp.LAMB([{"params": Problem().params, key: 1.0}])


@of_one_group
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate:UserWarning")
def test_duplicate_parameters_are_refused(make: Make) -> None:
    problem = Problem()
    with pytest.raises(ValueError, match=r"duplicate|same parameter"):
        make([*problem.params, problem.params[0]])
    with pytest.raises(ValueError, match=r"more than one parameter group"):
        make([{"params": problem.params}, {"params": problem.params[:1]}])
    optimizer = make(problem.params[:2])
    with pytest.raises(ValueError, match=r"more than one parameter group"):
        optimizer.add_param_group({"params": problem.params[1:]})
    assert len(optimizer.param_groups) == 1
    problem.train(optimizer, 1)


@methods
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_tensors_are_frozen_parameters(make: Make, dtype: torch.dtype) -> None:
    """A quantized model holds some, which never have a gradient."""
    problem, other = Problem(), Problem()
    integers = torch.ones(3, 2, dtype=dtype)
    problem.train(make([integers, *problem.params]), 2)
    other.train(make(other.params), 2)
    assert integers.all()
    assert_same(problem.weights(), other.weights())


@pytest.mark.parametrize("key", ["direction", "rule"])
@pytest.mark.parametrize("value", ["adamw", 3, None, torch.optim.Adam])
def test_unknown_directions_and_rules(key: str, value: Any) -> None:
    options = {"direction": "adam", "rule": "identity", key: value}
    with pytest.raises((TypeError, ValueError), match=key):
        lp.Layerwise(Problem().params, lr=0.1, **options)
    if key == "direction":
        with pytest.raises((TypeError, ValueError), match=key):
            lp.Layca(Problem().params, lr=0.1, direction=value)


@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_a_backend_that_is_not_there_says_so(backend: str) -> None:
    with pytest.raises(ValueError, match=backend):
        lp.LAMB(Problem().params, backend=backend)


def test_nesterov_needs_momentum_without_dampening() -> None:
    params = Problem().params
    with pytest.raises(ValueError, match="nesterov"):
        lp.LARS(params, lr=1.0, nesterov=True, momentum=0.9, dampening=0.5)
    with pytest.raises(ValueError, match="nesterov"):
        lp.LARS(params, lr=1.0, nesterov=True, momentum=0.0)


def test_decoupled_decay_where_a_rule_cannot_fold_it() -> None:
    for rule in ("percent_delta", "relative_l1", "rotation"):
        with pytest.raises(ValueError, match="decoupled"):
            lp.Layerwise(
                Problem().params,
                direction="sgd",
                rule=rule,
                lr=0.1,
                weight_decay=0.1,
                decoupled_weight_decay=True,
            )


def test_the_lists_hold_each_method() -> None:
    """What is meant to be in the tests above is in them."""
    problem = Problem()
    types = {type(make(problem.params)).__name__ for make in NATIVE.values()}
    assert types == {"LARS", "LAMB", "LAMBC", "PercentDelta", "Layca", "Layerwise"}
    assert len(METHODS) == len(NATIVE) + 2


@pytest.mark.parametrize(("group", "error"), [({"lr": "x"}, TypeError), ({"lr": -1.0}, ValueError)])
def test_a_value_of_a_group_is_said_with_its_number(group: dict[str, Any], error: type[Exception]) -> None:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    with pytest.raises(error, match=r"^lr must be .* \(parameter group 1\)$"):
        lp.LAMB([{"params": [first]}, {"params": [second], **group}])
