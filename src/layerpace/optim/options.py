"""The options of the optimizers: which there are, and where they may stand."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from layerpace import directions, rules
from layerpace.entries import Settings
from layerpace.layers import Exclude, Segments, is_vector
from layerpace.rules import Rule

Copied = TypeVar("Copied", bound=Optimizer)


class Options(TypedDict, total=False):
    """The keyword arguments that every optimizer of layerpace takes; see `Layerwise` for their meaning."""

    maximize: bool
    exclude: Exclude
    segments: Mapping[str, Segments] | None
    min_rms: float
    low_precision: str
    state_dtype: str
    nonfinite: str
    max_grad_norm: float | None
    backend: str
    capturable: bool


# Options that mean something to some optimizer of layerpace; in a group of one that does not have them they are errors.
ELSEWHERE = frozenset(
    {f.name for kind in (*directions.ALL, *rules.ALL, Settings) for f in fields(kind)}
    | {"direction", "momentum", "dampening", "nesterov", "lr_in_velocity", "trust_coefficient", "trust_clip"}
    | {"decay_in_norm", "low_precision"}
) - {"capturable"}  # torch.optim has it in every group, and so have the checkpoints that move over


def only_options(method: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that `Options` does not have: `Layerwise` knows more than a method takes."""
    for name in options:
        if name not in Options.__annotations__:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def rate(group: Mapping[str, Any]) -> float | Tensor:
    """The learning rate of a group, multiplier included; see `on_host`."""
    lr, multiplier = on_host(group["lr"]), group.get("lr_multiplier", 1.0)
    scaled: float | Tensor = lr if multiplier == 1.0 else lr * multiplier
    return scaled


def on_host(lr: float | Tensor) -> float | Tensor:
    """The rate as a number, unless it lives on an accelerator, which must not be waited for."""
    if isinstance(lr, Tensor) and lr.device.type == "cpu" and not torch.compiler.is_compiling():
        return float(lr)
    return lr


def default_exclude(rule: Rule) -> Exclude:
    """What a rule leaves out unless told otherwise."""
    return is_vector if rule.excludes_vectors else None


def without_lambda(reduced: Any, rule: Rule) -> Any:
    """What ``__reduce_ex__`` gives, with the rule's default in the place of an ``exclude`` that cannot be pickled."""
    state = reduced[2]
    if "<" in getattr(state["_exclude"], "__qualname__", ""):
        state = {**state, "_exclude": default_exclude(rule)}
    return (*reduced[:2], state, *reduced[3:])


def deep_copy(optimizer: Copied, memo: dict[int, Any]) -> Copied:
    """A deep copy that keeps an ``exclude`` which pickling could not."""
    other = type(optimizer).__new__(type(optimizer))
    memo[id(optimizer)] = other
    other.__setstate__(deepcopy(optimizer.__getstate__(), memo))
    return other
