"""The panels of the LAMBC recipes' pictures: accuracy by epoch, accuracy by seed, and trust ratios by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import GREY, METHOD_COLOURS, tidy
from ..statistics import percent
from .runs import NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Outcomes = Mapping[str, Mapping[str, Any]]  # by clip; see measures.outcome
COLOURS = dict(
    zip(
        (NONE, "1", "3", "5", "10", "tightening", "falling"),
        (METHOD_COLOURS[4], *METHOD_COLOURS[:3], METHOD_COLOURS[5], METHOD_COLOURS[3], METHOD_COLOURS[6]),
        strict=True,
    )
)
RUNNING = {"running 1": "#8B4513", "running 2": "#7F7F00"}
NAMES = {"kernels": "kernels", "scales": "BatchNorm's scales", "shifts": "biases, BatchNorm's too"}
TITLES = {
    NONE: "no clip (LAMB)",
    "running 1": "running mean + 1 sd",
    "running 2": "running mean + 2 sd",
    "tightening": "tightening (AdaBound's)",
    "falling": "falling, 10 to 1",
    "kernels none": "kernels only, no clip",
    "kernels 1": "kernels only, clip at 1",
}


def title(clip: str) -> str:
    return TITLES.get(clip, f"clip at {clip}")


def colour(clip: str) -> str:
    return {**COLOURS, **RUNNING}[clip.removeprefix("kernels ")]


def curves(axes: Axes, outcomes: Outcomes) -> None:
    """Test accuracy by epoch: the mean over seeds, and a band from the lowest to the highest."""
    for clip, found in outcomes.items():
        curve = found["curve"]
        label = f"{title(clip)}: {percent(found['scores'])}"
        axes.plot(curve["epoch"], hundred(curve["mean"]), color=colour(clip), label=label, linewidth=1.7)
        low, high = hundred(curve["low"]), hundred(curve["high"])
        axes.fill_between(curve["epoch"], low, high, color=colour(clip), alpha=0.12, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    tidy(axes)


def by_seed(axes: Axes, outcomes: Outcomes) -> None:
    """Mean test accuracy of the last quarter: a dot for each seed, a line for the mean, side by side."""
    for place, (clip, found) in enumerate(outcomes.items()):
        values = hundred(found["scores"])
        mean = sum(values) / len(values)
        axes.plot([place] * len(values), values, "o", color=colour(clip), alpha=0.6, markersize=5)
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color=colour(clip), linewidth=2.5)
    names = [title(clip).replace(" (", "\n(").replace(", ", ",\n").replace(" + ", "\n+ ") for clip in outcomes]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("mean test accuracy of the last quarter, %")
    tidy(axes)


def ratios(axes: Axes, found: Mapping[str, Any], bounds: Sequence[float]) -> None:
    """Trust ratios by epoch: the median of each kind of tensor, and a band from the smallest to the largest."""
    for kind, tint in (("kernels", METHOD_COLOURS[0]), ("scales", METHOD_COLOURS[1]), ("shifts", METHOD_COLOURS[2])):
        spread = found["ratios"][kind]
        if not spread["epoch"]:
            continue
        axes.plot(spread["epoch"], spread["middle"], color=tint, label=NAMES[kind], linewidth=1.7)
        axes.fill_between(spread["epoch"], spread["low"], spread["high"], color=tint, alpha=0.12, linewidth=0)
    for bound in bounds:
        axes.axhline(bound, color=GREY, linewidth=0.9, linestyle="--")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("trust ratio")
    axes.legend(loc="best", fontsize=8, frameon=False)
    tidy(axes)


def applied(axes: Axes, outcomes: Outcomes, kind: str) -> None:
    """The median ratio of a kind of tensor, after clipping, by epoch, for each clip."""
    for clip, found in outcomes.items():
        spread = found["applied"][kind]
        axes.plot(spread["epoch"], spread["middle"], color=colour(clip), label=title(clip), linewidth=1.7)
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("trust ratio after clipping, median")
    tidy(axes)


def hundred(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
