"""Loading a state dict: what must fit, and the precision that torch would lose; matching.py says whose is what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from layerpace import directions
from layerpace.directions import Direction
from layerpace.engine.cache import PlanCache, Stepped
from layerpace.engine.common.fake import has_values
from layerpace.engine.numerics.precision import SEED, compute_dtype, moment_dtype
from layerpace.engine.sharding.collectives import is_distributed
from layerpace.engine.support import check_shaped, real_shape, step_device
from layerpace.optim.methods import merge_saved
from layerpace.optim.options import known_options
from layerpace.rules import Rule


class Loaded(Stepped, Protocol):
    """What loading reads of the optimizer that a state dict is for."""

    rule: Rule
    _cache: PlanCache

    def _check_group(self, group: Mapping[str, Any], index: int) -> None:
        """Raise for values out of range, and for options that a group cannot have."""

    def _direction(self, group: Mapping[str, Any]) -> Direction:
        """The direction with the options of a group, checked."""

    def _rule(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group."""


# State that appears when it is first needed, and need not be in a state dict.
LATER = ("velocity", "master")


def check_loadable(optimizer: Loaded, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError unless the state dict, as `layerpace.optim.state_names.by_names` returns it, fits the optimizer.

    Moments that the optimizer needs must be there with the parameter's shape, and hyperparameters, counts and sizes
    must be in range; names that it does not know are kept and ignored.
    """
    known: set[str] = set()
    for param, where, state, expected, direction, rule in _saved(optimizer, state_dict):
        if not isinstance(state, Mapping):
            raise ValueError(f"the state of {where} must be a dict, got {type(state).__name__}")
        missing = [name for name in expected if name not in state]
        if missing:
            raise ValueError(f"the state of {where} lacks {missing}; it has {sorted(map(str, state))}")
        known |= expected.keys()
        shapes = {name: like.shape for name, like in expected.items()}
        shapes |= dict.fromkeys(LATER, real_shape(param))
        for name in shapes.keys() & state.keys():
            check_value(name, state[name], shapes[name], where, param)
        for name in {*direction.nonnegative, *rule.nonnegative} & shapes.keys() & state.keys():
            check_nonnegative(name, state[name], where, or_nan=name in rule.nonnegative)
        if SEED in state and torch.as_tensor(state[SEED], device="cpu").numel() != 1:
            raise ValueError(f"{SEED} of {where} must be one whole number, got {state[SEED]!r}")
    for index, (group, saved) in enumerate(zip(optimizer.param_groups, state_dict["param_groups"], strict=True)):
        try:
            optimizer._check_group(merge_saved(group, saved, optimizer.direction, optimizer.rule), index)
        except TypeError as error:
            raise ValueError(f"the state dict is of another method: {error}") from None
    _check_method(optimizer, state_dict, known)


def _check_method(optimizer: Loaded, state_dict: Mapping[str, Any], known: set[str]) -> None:
    """Raise ValueError for options and state of another method; an option alone may be a key of the user's."""
    pairs = list(zip(optimizer.param_groups, state_dict["param_groups"], strict=True))
    ours = known_options()
    options = {key for group, saved in pairs for key in saved if key in ours and key not in group}
    kept = {name for state in state_dict["state"].values() if isinstance(state, Mapping) for name in state}
    if options and (not kept or (kept - known) & _names_of_states()):
        raise ValueError(
            f"the state dict is of another method: its groups have {sorted(options)}, which is no option of "
            f"{type(optimizer).__name__} with the direction {type(optimizer.direction).__name__}"
        )


def _names_of_states() -> set[str]:
    """What the directions that have names keep."""
    found: set[str] = set()
    for kind in directions.BY_NAME.classes:
        with suppress(TypeError):  # one that cannot be made without arguments
            found.update(kind().state_names())
    return found


def check_value(
    name: str, value: Any, shape: torch.Size, where: str, param: Tensor, *, counts: bool | None = None
) -> None:
    """Raise ValueError unless ``value`` can be the state of that name: a dense tensor of real numbers, or a count.

    Args:
        name, value: of the state.
        shape: that it needs; a count of one number serves all layers.
        where, param: whose it is.
        counts: whether it counts steps; None: if it is called "step".
    """
    if counts or (counts is None and name == "step"):
        count = _as_count(value)
        if count is None or (has_values(count) and not _all_whole(count)):
            raise ValueError(f"{name} of {where} must count steps, a whole number >= 0, got {_told(value)}")
        if count.numel() == 1 and counts is None:
            return
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} of {where} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} of {where} has shape {tuple(value.shape)} in the state dict, needs {tuple(shape)}")
    if value.layout != torch.strided:
        raise ValueError(f"{name} of {where} must be a dense tensor, got one with layout {value.layout}")
    if not value.is_floating_point():
        raise ValueError(f"{name} of {where} must be a tensor of floating point numbers, got {value.dtype}")
    if value.is_meta and not param.is_meta:
        raise ValueError(f"{name} of {where} has no values: it is on the device 'meta'")


def _all_whole(count: Tensor) -> bool:
    return bool((torch.isfinite(count) & (count >= 0) & (count == count.floor())).all())


def _as_count(value: Any) -> Tensor | None:
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_complex() or value.is_meta):
        return None
    try:
        return torch.as_tensor(value, device="cpu").to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if value.layout != torch.strided or value.is_meta:
        return f"a tensor with layout {value.layout} on {value.device}"
    values = value.detach().reshape(-1)
    return str(values[0].item()) if len(values) == 1 else f"values from {values.min().item()} to {values.max().item()}"


def check_nonnegative(name: str, value: Any, where: str, *, or_nan: bool = False) -> None:
    """Raise ValueError for a state below zero; with ``or_nan`` also for nan, which moments of a ruined run may have.

    Of a DTensor all processes hear the same.
    """
    if value.is_meta:
        return
    bad = (~(value >= 0) if or_nan else value < 0).any()
    if has_values(bad) and bool(bad.full_tensor() if is_distributed(bad) else bad):
        raise ValueError(f"{name} of {where} must not be below 0{' or nan' if or_nan else ''}, got {_told(value)}")


def cast_state(optimizer: Loaded, state_dict: Mapping[str, Any]) -> None:
    """Put saved state into the optimizer in the dtype, device and memory layout that it keeps for its parameters.

    Moments saved in float32 are rounded to nearest where they are kept in bfloat16: loading needs no random numbers.
    """
    for param, _, saved, expected, direction, rule in _saved(optimizer, state_dict):
        working = compute_dtype(param.dtype)
        layers, state = optimizer._layers[param], optimizer.state[param]
        by_layer = {"step", *direction.layer_state, *rule.state_names}
        held = optimizer._cache.of(param, layers) if is_distributed(param) else None
        for name, value in saved.items():
            if name == "step":
                device = step_device(layers, param, optimizer._settings)
                step = torch.as_tensor(value, dtype=torch.float32, device="cpu").to(device)
                step = step if step.shape == expected[name].shape else step.reshape(()).expand(expected[name].shape)
                state[name] = step.clone()
            elif name == SEED:
                state[name] = torch.as_tensor(value, device="cpu").detach().to("cpu", torch.int64, copy=True)
            elif name in expected and (held is None or name in by_layer or expected[name].shape != real_shape(param)):
                whole = value.full_tensor() if is_distributed(value) else value
                state[name] = torch.empty_like(expected[name], device=param.device).copy_(whole)
            elif name in expected or name in LATER:
                moment = moment_dtype(param.dtype, optimizer._settings.state_dtype)
                dtype = working if name == "master" else moment
                part = (value if held is None else held.shard(value)).detach().to(param.device, dtype, copy=True)
                state[name] = part if held is None else held.distribute(part)
        if param.dtype == working or optimizer._settings.low_precision != "master":
            state.pop("master", None)


def _saved(
    optimizer: Loaded, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, str, dict[str, Any], dict[str, Tensor], Direction, Rule]]:
    """(parameter, where it stands, its saved state, its initial state on the meta device, its method)."""
    groups = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    for index, (group, saved) in enumerate(groups):
        try:
            merged = merge_saved(group, saved, optimizer.direction, optimizer.rule)
            direction, rule = optimizer._direction(merged), optimizer._rule(merged)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error} (parameter group {index} of the state dict)") from None
        names = group.get("param_names") or [f"parameter {k}" for k in range(len(group["params"]))]
        for param, name, key in zip(group["params"], names, saved["params"], strict=True):
            state = state_dict["state"].get(key)
            if state:
                where = f"{name} in parameter group {index}"
                check_shaped(param, where)
                expected = optimizer._initial_state(param, direction, rule, "meta")
                yield param, where, state, expected, direction, rule
