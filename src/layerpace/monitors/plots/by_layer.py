"""Pictures with the layers along the axis, from input to output, at a few moments of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...engine.common.checks import check_choice, check_range
from ...layers import multiplier, prioritize
from ..history import History
from ..quantities import SECOND_MOMENT
from ..run import Run
from .style import (
    GREY,
    MARKERS,
    METHOD_COLOURS,
    NAMED_LAYERS,
    beside,
    edge_marks,
    layer_colours,
    layer_ticks,
    new_axes,
    require_matplotlib,
    short_names,
    tidy,
)
from .words import axis_of, history_of, logarithmic, measured, taken, title_of, vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..monitor import Monitor

SHOWN_STEPS = 4
BY_LAYER = ("relative_update_l1", "relative_update_l2", "rotation_angle")


def relative_updates(
    run: Run | History | Monitor,
    *,
    steps: Sequence[int] | None = None,
    quantity: str = "relative_update_l1",
    ax: Axes | None = None,
) -> Axes:
    """By which share each layer changes in a step, on a log axis, at a few steps (PercentDelta paper, figure 1).

    Matrices are filled and joined by a line; vectors (biases, norm scales), whose share is naturally another, are
    hollow. Zeros stand at the bottom edge, what is not finite at the top.

    Args:
        run: a run, its monitor, or the records of one.
        steps: steps to show; the record nearest to each is drawn. None: four, evenly from the first record to the
            last.
        quantity: "relative_update_l1", "relative_update_l2" or "rotation_angle" (radians).
        ax: axes to draw into; None: those of a new figure. The key of steps stands to their right.

    Raises:
        ValueError: another quantity, none recorded, or no steps.
        ImportError: matplotlib is missing.
    """
    check_choice("quantity", quantity, BY_LAYER)
    run = taken(run)
    recorded, values = measured(run, quantity)
    places = chosen(recorded, steps)
    axes = new_axes(ax)
    tidy(axes)
    if logarithmic(quantity):
        axes.set_yscale("log")
    hollow, xs = vectors(run), list(range(values.shape[1]))
    few = len(xs) <= NAMED_LAYERS
    for number, place in enumerate(places):
        colour, marker = METHOD_COLOURS[number % len(METHOD_COLOURS)], MARKERS[number % len(MARKERS)]
        row = values[place]
        zero, infinite = row == 0, row.isinf()
        shown = torch.where(zero | infinite, torch.nan, row).tolist()
        size = 6 if few else 3
        filled = [x for x in xs if not hollow[x]]
        axes.plot(
            filled, [shown[x] for x in filled], color=colour, marker=marker, markersize=size,
            linewidth=1.2 if few else 0.6, label=f"{recorded[place]}",
        )  # fmt: skip
        empty = [x for x in xs if hollow[x]]
        axes.plot(
            empty, [shown[x] for x in empty], color=colour, marker=marker, markersize=size, linestyle="",
            markerfacecolor="none", markeredgewidth=1.2 if few else 0.7,
        )  # fmt: skip
        edge_marks(axes, xs, zero.tolist(), colour, top=False, along=False)
        edge_marks(axes, xs, infinite.tolist(), colour, top=True, along=False)
    layer_ticks(axes, short_names(history_of(run).layers))
    axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.set_xlabel("layer, from input to output" + (" (hollow: vectors)" if any(hollow) and not all(hollow) else ""))
    axes.set_ylabel(axis_of(quantity))
    axes.set_title(f"{title_of(quantity)} by layer", fontsize=11)
    beside(axes, title="step")
    return axes


def chosen(recorded: Sequence[int], wanted: Sequence[int] | None) -> list[int]:
    """Places of the records nearest to the steps wanted, each once, in order."""
    if wanted is None:
        count = min(SHOWN_STEPS, len(recorded))
        return [round(k * (len(recorded) - 1) / max(count - 1, 1)) for k in range(count)]
    if not wanted:
        raise ValueError("steps must name one step or more, got none")
    return sorted({min(range(len(recorded)), key=lambda k: abs(recorded[k] - step)) for step in wanted})


def second_moments(run: Run | History | Monitor, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Percentiles 10, 50 and 90 of the optimizer's second moment in every layer (layer-rotation paper, figure 11).

    A bar goes from the 10th percentile to the 90th, its notch is the median, so that one sees whether the moments
    differ more within layers or between them. A bar that ends below the axis has a percentile of 0.

    Args:
        run: a run, its monitor, or the records of one.
        step: the record nearest to it is drawn; None: the last one.
        ax: axes to draw into; None: those of a new figure.

    Raises:
        ValueError: none recorded.
        ImportError: matplotlib is missing.
    """
    run = taken(run)
    recorded, high = measured(run, SECOND_MOMENT[2])
    place = len(recorded) - 1 if step is None else chosen(recorded, [step])[0]
    history = history_of(run)
    row = history.steps.index(recorded[place])
    low, middle, high = (history[name][row] for name in SECOND_MOMENT)
    axes = new_axes(ax)
    tidy(axes)
    axes.set_yscale("log")
    finite = torch.cat([band[band.isfinite() & (band > 0)] for band in (low, middle, high)])
    floor = float(finite.min()) / 3 if len(finite) else 1e-12
    xs = list(range(len(history.layers)))
    colours = layer_colours(len(xs))
    width = 0.5 if len(xs) <= NAMED_LAYERS else 0.8
    drawn = high.isfinite() & (high > 0)
    shown = drawn.nonzero().flatten().tolist()
    bottoms = [max(float(low[x]), floor) for x in shown]
    heights = [float(high[x]) - bottom for x, bottom in zip(shown, bottoms, strict=True)]
    axes.bar(shown, heights, width, bottoms, color=[colours[x] for x in shown], alpha=0.6)
    notched = [x for x in shown if 0 < float(middle[x]) < math.inf]
    left, right = [x - width / 2 for x in notched], [x + width / 2 for x in notched]
    axes.hlines([float(middle[x]) for x in notched], left, right, color="black", linewidth=1.6)
    edge_marks(axes, xs, (high == 0).tolist(), GREY, top=False, along=False)
    edge_marks(axes, xs, high.isinf().tolist(), GREY, top=True, along=False)
    layer_ticks(axes, short_names(history.layers))
    axes.set_xlim(-0.7, len(xs) - 0.3)
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel("second moment (gradient²)\n10th to 90th percentile, median")
    axes.set_title(f"Second moment at step {recorded[place]}", fontsize=11)
    return axes


def multipliers(
    groups_or_alphas: float | Sequence[float] | Sequence[Mapping[str, Any]],
    model: nn.Module,
    ax: Axes | None = None,
    *,
    example_input: Any = None,
) -> Axes:
    """The learning-rate multiplier of every layer (layer-rotation paper, figure 12).

    Args:
        groups_or_alphas: one alpha or several, in [-1, 1] (see `layerpace.layers.prioritize`): a line each, dashed
            where the first layers come first; or the param groups of an optimizer, whose ``lr_multiplier`` is drawn.
        model: the network that has the layers.
        ax: axes to draw into; None: those of a new figure. The key of alphas stands to their right.
        example_input: what the model's forward takes: the layers stand in the order of its computation.

    Raises:
        ValueError: an alpha out of range, none, or a group without a tensor of this model.
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    several = groups_or_alphas if isinstance(groups_or_alphas, Sequence) else [groups_or_alphas]
    if not several:
        raise ValueError("groups_or_alphas must hold one alpha or group at least, got none")
    # At alpha = -0.5 every layer has a multiplier of its own, so that every group is one layer.
    layers = [[p for p in group["params"] if p[1].ndim >= 2] for group in prioritize(model, -0.5, example_input)]
    names, count = [layer[0][0] for layer in layers], len(layers)
    lines: list[tuple[str, dict[str, Any], list[float]]] = []
    if isinstance(several[0], Mapping):
        of_tensor: dict[int, float] = {}
        for group in several:
            for entry in group["params"]:  # type: ignore[index]
                tensor = entry[1] if isinstance(entry, tuple) else entry
                of_tensor[id(tensor)] = float(group.get("lr_multiplier", 1.0))  # type: ignore[union-attr]
        values = [of_tensor.get(id(layer[0][1]), float("nan")) for layer in layers]
        if all(value != value for value in values):
            raise ValueError("the groups hold no layer of this model")
        lines.append(("", {"color": METHOD_COLOURS[0]}, values))
    else:
        for alpha in several:
            check_range("alpha", alpha, -1, 1)
        sizes = sorted({abs(float(alpha)) for alpha in several})  # type: ignore[arg-type]
        colours = dict(zip(sizes, layer_colours(len(sizes)), strict=True))
        for alpha in map(float, several):  # type: ignore[arg-type]
            style = {"color": colours[abs(alpha)], "linestyle": "--" if alpha < 0 else "-"}
            lines.append((f"{alpha:g}", style, [multiplier(k, count, alpha) for k in range(count)]))
    axes = new_axes(ax)
    tidy(axes)
    for label, style, values in lines:
        axes.plot(range(count), values, marker="o" if count <= 3 * NAMED_LAYERS else "", label=label, **style)
    layer_ticks(axes, short_names(names))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel("factor on the learning rate")
    axes.set_title("Learning-rate multiplier by layer", fontsize=11)
    if lines[0][0]:
        beside(axes, title=r"$\alpha$")
    return axes
