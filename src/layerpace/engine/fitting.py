"""Whether the state of a parameter fits it, and a direction a shard: looked at before a step changes anything.

A user may write state, ``module.double()`` changes the dtype of weights and not that of moments, ``param.data = ...``
their shape. A kept plan notices that something has changed; this says what is wrong when another one is to be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from layerpace.directions import ALL, Direction
from layerpace.directions.trial import is_elementwise
from layerpace.engine.common.fake import has_values
from layerpace.engine.entries import Entry, GroupOptions, Settings
from layerpace.engine.numerics.precision import compute_dtype, moment_dtype
from layerpace.engine.sharding.shards import Shard
from layerpace.engine.support import real_shape


def check_state(
    entry: Entry, options: GroupOptions, settings: Settings, initial: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Raise RuntimeError, naming the parameter, for state of another shape, dtype or device than its weight asks for.

    Args:
        entry: a parameter.
        options, settings: of its group and of its optimizer.
        initial: gives the state before a first step, without memory: what a direction of the user's keeps.
    """
    param, state, layers, direction = entry.param, entry.state, entry.layers, options.direction
    by_layer = layers.broadcast_shape(param.shape)
    dtype = moment_dtype(param.dtype, settings.state_dtype)
    expected: Mapping[str, Tensor] | None = None

    def fail(name: str, seen: str, needs: str) -> NoReturn:
        raise RuntimeError(
            f"the state {name!r} of {layers.name!r} {seen}, and the weight (shape {tuple(param.shape)}, {param.dtype}, "
            f"{param.device}) needs {needs}; no weight was changed. After a change of dtype or device, "
            "optimizer.load_state_dict(optimizer.state_dict()) makes the state follow; of a parameter with another "
            "shape, drop it: optimizer.state.pop(param)"
        )

    def tensor(name: str, of: Mapping[str, Any]) -> Tensor:
        value = of.get(name)
        if not isinstance(value, Tensor):
            fail(name, "is missing" if value is None else f"is a {type(value).__name__}", "a tensor")
        if value.layout != torch.strided:  # arithmetic fails on it, when others have moved
            fail(name, f"is {value.layout}", "a dense tensor")
        if value.is_complex() or value.is_quantized:
            fail(name, f"is {value.dtype}", "a tensor of real numbers")
        if value.is_meta and not param.is_meta:
            fail(name, "is on meta", "one that has values")
        return value

    def check_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
        if value.shape != shape:
            fail(name, f"has shape {tuple(value.shape)}", f"{tuple(shape)}")

    def check_kind(name: str, value: Tensor, wanted: torch.dtype) -> None:
        if value.dtype != wanted:
            fail(name, f"is {value.dtype}", f"{wanted}")
        if value.device != param.device:
            fail(name, f"is on {value.device}", f"it on {param.device}")

    count = tensor("step", state)
    check_shape("step", count, by_layer)
    if count.is_cpu and has_values(count) and not (count >= 0).all():  # elsewhere the host would wait for it
        fail("step", f"is {count.tolist()}", "a count of steps, >= 0")
    for name in direction.state_names():
        value = tensor(name, state)
        if name in direction.layer_state:
            check_shape(name, value, by_layer)
        elif value.shape == param.shape and value.dtype == dtype:
            check_kind(name, value, dtype)
        elif type(direction) in ALL:
            check_shape(name, value, param.shape)
            check_kind(name, value, dtype)
        else:
            expected = initial() if expected is None else expected
            check_shape(
                name, value, param.shape if entry.held is not None and entry.held.split else expected[name].shape
            )
            check_kind(name, value, expected[name].dtype)
            if layers.sizes is not None and not _broadcasts(by_layer, value.shape):
                fail(name, f"has shape {tuple(value.shape)}", f"one that {by_layer}, its layers, broadcasts over")
    whole = entry.whole
    for name in options.rule.state_names:
        check_shape(name, tensor(name, entry.saved), (whole.count,))
    if options.velocity is not None and "velocity" in state:
        check_shape("velocity", tensor("velocity", state), param.shape)
        check_kind("velocity", state["velocity"], dtype)
    working = compute_dtype(param.dtype)
    if settings.low_precision == "master" and working != param.dtype and "master" in state:
        check_shape("master", tensor("master", state), param.shape)
        check_kind("master", state["master"], working)


def _broadcasts(by_layer: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether one number a layer broadcasts over a tensor of ``shape``."""
    if len(shape) != len(by_layer):
        return False
    return all(ours in (1, theirs) for ours, theirs in zip(by_layer, shape, strict=True))


def check_direction(direction: Direction, held: Shard, initial: Callable[[], Mapping[str, Tensor]]) -> None:
    """Raise RuntimeError for a user's direction that cannot work on shards.

    Args:
        direction: of a parameter's group.
        held: the parameter, a DTensor.
        initial: gives the state of all of it, without memory.
    """
    if type(direction) in ALL or not held.split:
        return
    kind, name, shape = type(direction).__name__, held.whole.name, tuple(real_shape(held.param))
    instead = (
        "keep such parameters whole (fully_shard(..., ignored_params={...}), or DDP), or give them another direction"
    )
    for key, value in initial().items():
        if key in direction.state_names() and key not in direction.layer_state and value.shape != shape:
            raise RuntimeError(
                f"{kind} keeps a state {key!r} of shape {tuple(value.shape)} for {name!r}, which has shape {shape} and "
                f"is sharded over processes: state must have the weight's shape, or be one number a layer that is "
                f"named in {kind}.layer_state; {instead}"
            )
    if direction.elementwise is None:
        sharded = is_elementwise(direction, tuple(held.tensor.shape))
    else:
        sharded = direction.elementwise
    if not sharded:
        raise RuntimeError(
            f"{kind} is not elementwise: what it makes of a part of a tensor is not that part of what it makes of the "
            f"whole, and {name!r} is sharded over processes; {instead}"
        )
