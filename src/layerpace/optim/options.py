"""The options of the optimizers: which there are, and where they may stand."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from layerpace import directions, rules
from layerpace.directions import Direction
from layerpace.engine.common.checks import is_plain, pair, plain, read_number
from layerpace.engine.common.fake import has_values
from layerpace.engine.entries import Settings
from layerpace.layers import Exclude, Segments, is_vector
from layerpace.layers.wrappers import named_parameters
from layerpace.optim.methods import to_plain
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


def known_options() -> frozenset[str]:
    """Options that mean something to some optimizer, in a group or for the whole of it."""
    kinds = (*directions.BY_NAME.classes, *rules.BY_NAME.classes, Settings)
    others = {"direction", "momentum", "dampening", "nesterov", "lr_in_velocity", "trust_coefficient", "trust_clip"}
    names = {f.name for kind in kinds for f in fields(kind)} | others | {"decay_in_norm", "low_precision"}
    return frozenset(
        names - {"capturable"}
    )  # torch.optim has it in every group, and so have checkpoints that move over


def of_the_whole(rule: Rule) -> frozenset[str]:
    """Options of an optimizer with this rule that no group can have; where a direction has one, groups do.

    What means something to other optimizers is none of them: people keep keys of their own in groups (``rho``,
    ``alpha``), as in torch.
    """
    names = {f.name for kind in (rule, Settings) for f in fields(kind)}
    names |= {"direction", "rule", "momentum", "dampening", "nesterov", "lr_in_velocity"}
    if isinstance(rule, rules.TrustRatio):
        names |= {"trust_coefficient", "trust_clip", "decay_in_norm"}
    return frozenset(names - {"capturable"})


def of_module(params: ParamsT | nn.Module) -> ParamsT:
    """What an optimizer of torch takes: of a module its named parameters, anything else as it is.

    Raises:
        ValueError: the module has no parameters.
    """
    if not isinstance(params, nn.Module):
        return params
    named = list(named_parameters(params))
    if not named:
        raise ValueError(f"the module {type(params).__name__} has no parameters to optimize")
    return named


def own_numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group whose numbers are Python's own, a pair of betas too, so that what is saved opens with weights_only."""
    own = {key: value if key in ("params", "param_names") else plain(value) for key, value in group.items()}
    betas = pair(own.get("betas"))
    return own if betas is None else own | {"betas": plain(betas)}


def with_own_numbers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose groups have Python's own numbers, whatever a scheduler has put there."""
    groups = state_dict.get("param_groups")  # a hook of the user's may have made something else of it
    if groups is None:
        return state_dict
    return {**state_dict, "param_groups": [own_numbers(to_plain(group)) for group in groups]}


def direction_of(kind: type[Direction], values: Mapping[str, Any]) -> Direction:
    """The direction with these options, checked; the one of before, if they are the same and cannot change."""
    if all(map(is_plain, values.values())):
        return _checked_once(kind, tuple(values.items()))  # type: ignore[arg-type]
    own = {name: plain(value) for name, value in values.items()}
    if isinstance(own.get("betas"), list):
        own["betas"] = tuple(own["betas"])
    return kind(**own)


@lru_cache(maxsize=256, typed=True)
def _checked_once(kind: type[Direction], values: tuple[tuple[str, Any], ...]) -> Direction:
    return kind(**dict(values))


def only_options(method: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that `Options` does not have: `Layerwise` knows more than a method takes."""
    for name in options:
        if name not in Options.__annotations__:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def rate(group: Mapping[str, Any]) -> float | Tensor:
    """The learning rate of a group, multiplier included; see `on_host`."""
    lr, multiplier = on_host(plain(group["lr"])), plain(group.get("lr_multiplier", 1.0))
    if isinstance(multiplier, Tensor):
        multiplier = read_number("lr_multiplier", multiplier)
    scaled: float | Tensor = lr if multiplier == 1.0 else lr * multiplier
    return scaled


def on_host(lr: float | Tensor) -> float | Tensor:
    """The rate as a number, unless it lives on an accelerator, which must not be waited for."""
    if isinstance(lr, Tensor) and lr.device.type == "cpu" and has_values(lr) and not torch.compiler.is_compiling():
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
