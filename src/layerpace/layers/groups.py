"""Param groups with a learning rate each, for any torch optimizer and scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from layerpace.engine.common.checks import check_flag, check_number, check_range, plain
from layerpace.layers.base import Exclude
from layerpace.layers.selection import excluded, globs_of, is_vector


@dataclass(frozen=True)
class Rated:
    """A parameter whose rate is ``scale`` times that of the model.

    Attributes:
        told: further entries of its group.
    """

    name: str
    param: Tensor
    scale: float
    told: dict[str, Any] = field(default_factory=dict)


def check_lr(lr: Any) -> float | Tensor:
    """The learning rate, above 0, as Python's own number or a tensor with one element."""
    rate: float | Tensor = check_range("lr", lr, 0, open_low=True)
    return rate


def with_rate(lr: float | Tensor, scale: float, lr_scale: bool = False) -> dict[str, Any]:
    """The entries of a group whose rate is ``scale`` * lr, or that keeps the scale apart.

    A rate that is a tensor is one of its own in each group, and so is ``initial_lr``: schedulers write into it.
    """
    rate = lr * 1.0 if lr_scale else lr * scale
    start = rate.clone() if isinstance(rate, Tensor) else rate
    return {"lr": rate, "initial_lr": start, "lr_scale" if lr_scale else "rate_scale": scale}


def make_groups(
    rated: Iterable[Rated],
    lr: float | Tensor,
    weight_decay: Any = None,
    no_decay: Exclude = "auto",
    lr_scale: bool = False,
    *,
    keep_product: bool = False,
) -> list[dict[str, Any]]:
    """One group for each scale, set of further entries and weight decay, in the order of first appearance.

    Args:
        rated: the parameters; frozen ones (``requires_grad`` False) are left out.
        lr: the rate at scale 1, > 0.
        weight_decay: lambda, >= 0; None: groups say nothing of it.
        no_decay: which tensors get 0 instead; see `layerpace.layers.decay`.
        lr_scale: the scale stands apart, in "lr_scale", and every group has the same lr.
        keep_product: weight_decay is divided by the scale, so that lr*weight_decay is the same for all.

    Raises:
        ValueError: a value out of range; no parameter is left; a glob that matches none.
    """
    lr, lr_scale = check_lr(lr), check_flag("lr_scale", lr_scale)
    rated = list(rated)
    if not rated:
        raise ValueError("the model has no parameters")
    trained = [one for one in rated if one.param.requires_grad]
    if not trained:
        raise ValueError(f"all {len(rated)} parameters are frozen (requires_grad=False): nothing is left to train")
    if weight_decay is None and no_decay != "auto":
        raise ValueError(f"no_decay={no_decay!r} needs a weight_decay, which holds for the other tensors")
    decay = None if weight_decay is None else check_number("weight_decay", weight_decay, 0)
    no_decay = is_vector if isinstance(no_decay, str) and no_decay == "auto" else no_decay
    check_names("no_decay", no_decay, [one.name for one in rated])
    found: dict[Any, dict[str, Any]] = {}
    for one in trained:
        group = dict(one.told)
        if decay is not None:
            kept = decay / one.scale if keep_product else decay
            group["weight_decay"] = 0.0 if excluded(no_decay, one.name, one.param) else kept
        key = one.scale, *group.items()
        if key not in found:
            found[key] = {"params": [], **with_rate(lr, one.scale, lr_scale), **group}
        found[key]["params"].append((one.name, one.param))
    return list(found.values())


def check_names(argument: str, patterns: Exclude, names: Sequence[str]) -> None:
    """Raise ValueError for a glob that matches no name: it is likely a typing error."""
    patterns = plain(patterns)
    if patterns is None or isinstance(patterns, bool) or callable(patterns):
        return
    for glob in globs_of(patterns, argument):
        if not any(fnmatchcase(name, glob) for name in names):
            shown = ", ".join(map(repr, names[:5]))
            raise ValueError(f"{argument}={glob!r} matches no parameter; the names are {shown}, ...")
