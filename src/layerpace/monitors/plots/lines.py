"""Series against the step: one line a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...engine.common.checks import check_choice
from ..history import History
from ..run import Run
from .style import METHOD_COLOURS, NAMED_LAYERS, axes_key, edge_marks, layer_colours, new_axes, tidy
from .words import axis_of, listed, logarithmic, measured, taken, title_of, vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..monitor import Monitor

NORMS = ("weight_norm", "grad_norm", "update_norm")


def curves(run: Run | History | Monitor, quantity: str, ax: Axes | None = None) -> Axes:
    """A quantity of every layer against the step, coloured from input to output.

    Vectors (biases, norm scales) are dashed, or faint where layers are too many to be named. A figure that was not
    measured leaves a gap, one that is not finite a mark at the top edge, and a zero on a log axis one at the bottom
    edge.

    Args:
        run: a run, its monitor, or the records of one.
        quantity: one of `layerpace.monitors.quantities.QUANTITIES`, or the name of a scalar that the user logged.
        ax: axes to draw into; None: those of a new figure. The key of layers stands to their right.

    Raises:
        ValueError: nothing recorded under that name.
        ImportError: matplotlib is missing.
    """
    run = taken(run)
    if isinstance(run, Run) and quantity in run.scalars:
        return draw_scalar(run, quantity, new_axes(ax))
    steps, values = measured(run, quantity)
    axes = new_axes(ax)
    draw_layers(axes, run, quantity, steps, values)
    axes_key(axes, run.history.layers if isinstance(run, Run) else run.layers, vectors(run))
    return axes


def rotation_curves(run: Run | History | Monitor, ax: Axes | None = None) -> Axes:
    """Cosine distance of every layer to its initial weights against the step (layer-rotation paper, figure 2b).

    The dotted line at 1 is where a layer has nothing left in common with its start; the paper found the best
    generalization where nearly all layers reach it together.

    Args, errors: see `curves`.
    """
    axes = curves(run, "cosine_distance", ax)
    _finish_rotation(axes)
    return axes


def _finish_rotation(axes: Axes) -> None:
    axes.axhline(1, color="0.4", linewidth=0.9, linestyle=":", zorder=0)
    axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))


def norms(run: Run | History | Monitor, quantity: str = "weight_norm", ax: Axes | None = None) -> Axes:
    """Euclidean norm of every layer's weights, gradient or update against the step (layer-rotation paper, figure 10).

    Args:
        quantity: "weight_norm", "grad_norm" or "update_norm".

    Other arguments, errors: see `curves`.
    """
    check_choice("quantity", quantity, NORMS)
    return curves(run, quantity, ax)


def draw_layers(axes: Axes, run: Run | History, quantity: str, steps: list[int], values: torch.Tensor) -> None:
    """The lines of `curves`, without a key."""
    tidy(axes)
    log = logarithmic(quantity)
    if log:
        axes.set_yscale("log")
    dashed, many = vectors(run), values.shape[1] > NAMED_LAYERS
    for layer, colour in enumerate(layer_colours(values.shape[1])):
        at, column = joined(steps, values[:, layer])
        zero, infinite = (column == 0) & log, column.isinf()
        line = torch.where(zero | infinite, torch.nan, column).tolist()
        vector = dashed[layer]
        how: dict[str, Any]
        if many:  # matrices stand out
            how = {"linewidth": 0.5 if vector else 1.0, "alpha": 0.4 if vector else 0.8, "zorder": 1.9 if vector else 2}
        else:
            how = {"linewidth": 1.6, "linestyle": "--" if vector else "-"}
        axes.plot(at, line, color=colour, **how)
        lone = [k for k in range(len(line)) if alone(line, k)]
        axes.plot([at[k] for k in lone], [line[k] for k in lone], ".", color=colour, markersize=4)
        edge_marks(axes, at, zero.tolist(), colour, top=False)
        edge_marks(axes, at, infinite.tolist(), colour, top=True)
    if quantity == "learning_rate":
        axes.set_ylim(bottom=0)
    first, last = steps[0], steps[-1]
    margin = 0.02 * (last - first) or 1
    axes.set_xlim(first - margin, last + margin)
    axes.set_xlabel("step")
    axes.set_ylabel(axis_of(quantity))
    axes.set_title(title_of(quantity), fontsize=11)


def joined(steps: list[int], column: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """Where a layer was measured, with a nan in each gap.

    A layer that is measured in every second record, since two optimizers take turns, has no gaps: a gap is longer
    than the layer's usual distance between records.
    """
    there = (~column.isnan()).nonzero().flatten()
    if len(there) < 2:
        return [float(steps[k]) for k in there.tolist()], column[there]
    distance = there.diff()
    gaps = (distance > 1.5 * distance.median()).nonzero().flatten() + 1
    at = [float(steps[k]) for k in there.tolist()]
    figures = column[there].tolist()
    for k in reversed(gaps.tolist()):
        at.insert(k, (at[k - 1] + at[k]) / 2)
        figures.insert(k, float("nan"))
    return at, torch.tensor(figures, device="cpu")


def alone(line: list[float], k: int) -> bool:
    """A figure between two gaps, which a line would not show."""
    return line[k] == line[k] and all(
        not 0 <= other < len(line) or line[other] != line[other] for other in (k - 1, k + 1)
    )


def draw_scalar(run: Run, name: str, axes: Axes) -> Axes:
    """A scalar that the user logged, against the step."""
    series = run.scalars[name]
    if not series.steps:
        raise ValueError(f"the scalar {name!r} of run {run.name!r} is empty; there is: {listed(run.scalars)}")
    tidy(axes)
    values = torch.tensor(series.values, device="cpu")
    line = torch.where(values.isinf(), torch.nan, values).tolist()
    marker = "." if len(line) < 60 else ""
    axes.plot(series.steps, line, color=METHOD_COLOURS[0], linewidth=1.4, marker=marker)
    edge_marks(axes, series.steps, values.isinf().tolist(), METHOD_COLOURS[0], top=True)
    axes.set_xlabel("step")
    axes.set_ylabel(axis_of(name))
    axes.set_title(title_of(name), fontsize=11)
    return axes
