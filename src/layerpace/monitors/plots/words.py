"""Quantities in words, with units, as axes name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..history import History
from ..quantities import QUANTITIES
from ..run import Run, run_of
from .style import as_label

if TYPE_CHECKING:
    from torch import Tensor

    from ..monitor import Monitor

TITLES = {
    "relative_update_l1": "Relative update",
    "relative_update_l2": "Relative update, L2",
    "rotation_angle": "Angle turned in a step",
    "cosine_distance": "Layer rotation",
    "trust_ratio": "Trust ratio",
    "trust_ratio_unclipped": "Trust ratio before clipping",
    "weight_norm": "Norm of the weights",
    "grad_norm": "Norm of the gradient",
    "update_norm": "Norm of the update",
    "second_moment_p10": "Second moment, 10th percentile",
    "second_moment_p50": "Second moment, median",
    "second_moment_p90": "Second moment, 90th percentile",
    "silhouette": "Silhouette of the feedback",
    "learning_rate": "Learning rate",
}
AXES = {
    "relative_update_l1": r"relative update a step, $\|\Delta W\|_1 \, / \, \|W\|_1$",
    "relative_update_l2": r"relative update a step, $\|\Delta W\|_2 \, / \, \|W\|_2$",
    "rotation_angle": "angle turned in a step (radians)",
    "cosine_distance": "cosine distance to the initial weights",
    "trust_ratio": "trust ratio (factor on the learning rate)",
    "trust_ratio_unclipped": "trust ratio before clipping",
    "weight_norm": r"norm of the weights, $\|W\|_2$",
    "grad_norm": r"norm of the gradient, $\|G\|_2$",
    "update_norm": r"norm of the update, $\|\Delta W\|_2$",
    "second_moment_p10": "second moment, 10th percentile (gradient²)",
    "second_moment_p50": "second moment, median (gradient²)",
    "second_moment_p90": "second moment, 90th percentile (gradient²)",
    "silhouette": "silhouette score of the feedback",
    "learning_rate": "learning rate, multiplier included",
}
LINEAR = ("cosine_distance", "silhouette", "learning_rate")  # all others are drawn on a log axis


def title_of(name: str) -> str:
    """A quantity, or a scalar of the user's, as a heading."""
    return TITLES.get(name) or as_label(name.replace("_", " "))


def axis_of(name: str) -> str:
    return AXES.get(name) or as_label(name.replace("_", " "))


def logarithmic(name: str) -> bool:
    return name in QUANTITIES and name not in LINEAR


def taken(data: Run | History | Monitor) -> Run | History:
    """What a plot is made of; of a monitor its run.

    Raises:
        TypeError: none of these.
    """
    found: Run | History = run_of(data)
    history_of(found)
    return found


def history_of(data: Run | History) -> History:
    """The records of a run.

    Raises:
        TypeError: neither a run nor a history.
    """
    if isinstance(data, Run):
        return data.history
    if isinstance(data, History):
        return data
    raise TypeError(f"a plot is made of a Monitor, a Run or a History, got {type(data).__name__}")


def measured(data: Run | History, quantity: str) -> tuple[list[int], Tensor]:
    """The records in which a quantity was measured for some layer.

    Returns:
        Their steps, and the values: float32 [records, layers].

    Raises:
        ValueError: no record has it; the message lists what there is.
    """
    history = history_of(data)
    if not has(history, quantity):
        there = listed(name for name in history.quantities if has(history, name))
        raise ValueError(f"no record has the quantity {quantity!r}; there is: {there}")
    table = history[quantity]
    kept = (~table.isnan().all(dim=1)).nonzero().flatten().tolist()
    steps = history.steps
    return [steps[k] for k in kept], table[kept]


def has(data: Run | History, quantity: str) -> bool:
    """Some record has a figure of it."""
    history = history_of(data)
    return quantity in history and not bool(history[quantity].isnan().all())


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def vectors(data: Run | History) -> list[bool]:
    """Which layers have fewer than two dimensions; a history alone does not know: none."""
    if isinstance(data, Run):
        return [len(layer.shape) < 2 for layer in data.layers]
    return [False] * len(data.layers)
