"""Loading a state dict: what must fit, and the precision that torch would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerpace.optim.support import real_shape, step_device
from layerpace.precision import SEED, compute_dtype, moment_dtype
from layerpace.sharding import is_distributed

if TYPE_CHECKING:
    from layerpace.optim.base import Layerwise

# State that appears when it is first needed, and need not be in a state dict.
LATER = ("velocity", "master")


def check_loadable(optimizer: Layerwise, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError unless the state dict fits the optimizer.

    Moments that the optimizer needs must be there with the parameter's shape, and hyperparameters must be in range;
    names that it does not know are kept and ignored.
    """
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f"not an optimizer's state: {key!r} is missing, the keys are {sorted(state_dict)}")
    ours = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [len(group["params"]) for group in state_dict["param_groups"]]
    if ours != theirs:
        raise ValueError(f"the state dict has groups of {theirs} parameters, the optimizer has groups of {ours}")
    for param, where, state, expected in _saved(optimizer, state_dict):
        missing = [name for name in expected if name not in state]
        if missing:
            raise ValueError(f"the state of {where} lacks {missing}; it has {sorted(state)}")
        shapes = {name: like.shape for name, like in expected.items()}
        shapes |= dict.fromkeys(LATER, real_shape(param))
        for name in shapes.keys() & state.keys():
            value = state[name]
            if name == "step" and torch.as_tensor(value, device="cpu").numel() == 1:
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} of {where} must be a tensor, got {type(value).__name__}")
            if value.shape != shapes[name]:
                raise ValueError(
                    f"{name} of {where} has shape {tuple(value.shape)} in the state dict, needs {tuple(shapes[name])}"
                )
    for index, (group, saved) in enumerate(zip(optimizer.param_groups, state_dict["param_groups"], strict=True)):
        try:
            optimizer._check_group({**group, **saved}, index)
        except TypeError as error:
            raise ValueError(f"the state dict is of another method: {error}") from None


def cast_state(optimizer: Layerwise, state_dict: Mapping[str, Any]) -> None:
    """Put saved state into the optimizer in the dtype, device and memory layout that it keeps for its parameters.

    Moments saved in float32 are rounded to nearest where they are kept in bfloat16: loading needs no random numbers.
    """
    for param, _, saved, expected in _saved(optimizer, state_dict):
        working = compute_dtype(param.dtype)
        layers, state = optimizer._layers[param], optimizer.state[param]
        by_layer = {"step", *optimizer.direction.layer_state, *optimizer.rule.state_names}
        held = optimizer._keeper.of(param, layers) if is_distributed(param) else None
        for name, value in saved.items():
            if name == "step":
                device = step_device(layers, param, optimizer._settings)
                step = torch.as_tensor(value, dtype=torch.float32, device="cpu").to(device)
                step = step if step.shape == expected[name].shape else step.reshape(()).expand(expected[name].shape)
                state[name] = step.clone()
            elif name == SEED:
                state[name] = torch.as_tensor(value, device="cpu").detach().to("cpu", torch.int64, copy=True)
            elif name in expected and (held is None or name in by_layer):
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
    optimizer: Layerwise, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, str, dict[str, Any], dict[str, Tensor]]]:
    """(parameter, where it stands, its saved state, its initial state on the meta device)."""
    groups = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    for index, (group, saved) in enumerate(groups):
        direction = optimizer._direction({**group, **saved})
        names = group.get("param_names") or [f"parameter {k}" for k in range(len(group["params"]))]
        for param, name, key in zip(group["params"], names, saved["params"], strict=True):
            state = state_dict["state"].get(key)
            if state:
                where = f"{name} in parameter group {index}"
                yield param, where, state, optimizer._initial_state(param, direction, "meta")
