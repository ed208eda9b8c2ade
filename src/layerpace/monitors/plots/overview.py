"""All that a run has, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..run import Run
from .by_layer import relative_updates, second_moments
from .heat import trust_ratios
from .lines import _finish_rotation, draw_layers, draw_scalar
from .style import NAMED_LAYERS, as_label, layer_sidebar, new_figure, require_matplotlib, short_names
from .words import has, listed, measured, taken, vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..monitor import Monitor

COLUMNS = 3
MOST_SCALARS = 3
SERIES = (
    "relative_update_l1",
    "rotation_angle",
    "cosine_distance",
    "weight_norm",
    "grad_norm",
    "update_norm",
    "silhouette",
    "learning_rate",
)


def overview(run: Run | Monitor, figure: Figure | None = None) -> Figure:
    """One sheet with a panel for everything that the run has recorded.

    Scalars (the first three), relative updates by layer, every quantity against the step, the heat map of trust
    ratios and the percentiles of the second moment, with one key of layers for all.

    Args:
        run: a run with one record or more, or its monitor.
        figure: to draw into; None: a new one, as large as the panels need.

    Raises:
        ValueError: the run has no record.
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    found = taken(run)
    if not isinstance(found, Run):
        raise TypeError(f"the overview is that of a Run or a Monitor, got {type(run).__name__}")
    run = found
    scalars = [name for name, series in run.scalars.items() if series.steps]
    panels: list[Callable[[Axes], object]] = [partial(draw_scalar, run, name) for name in scalars[:MOST_SCALARS]]
    coloured = [quantity for quantity in SERIES if has(run, quantity)]  # panels whose lines are layers
    if has(run, "relative_update_l1"):
        panels.append(lambda axes: relative_updates(run, ax=axes))
    panels += [partial(_series, run, quantity) for quantity in coloured]
    if has(run, "trust_ratio"):
        panels.append(lambda axes: trust_ratios(run, axes))
    if has(run, "second_moment_p90"):
        panels.append(lambda axes: second_moments(run, ax=axes))
    if not panels:
        raise ValueError(f"run {run.name!r} has nothing to draw; it has: {listed(run.history.quantities)}")
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    names = short_names(run.history.layers)
    key = 0.0 if not coloured else 1.0 if len(names) > NAMED_LAYERS else 0.6 + 0.085 * max(map(len, names))  # inches
    wide = 5.0 * columns
    if figure is None:
        figure = new_figure(wide + key, 3.6 * lines + 0.4)
    elif figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    figure.suptitle(as_label(run.name), fontsize=13)
    # Subfigures: the key of one panel takes no room from the panels above and below.
    sheet: Any = figure
    if key:
        both: Any = figure.subfigures(1, 2, width_ratios=[wide, key])
        sheet, side = both
        layer_sidebar(side, names, vectors(run))
    places = sheet.subfigures(lines, columns, squeeze=False).flat
    for place, draw in zip(places, panels, strict=False):
        draw(place.add_subplot())
    return figure


def _series(run: Run, quantity: str, axes: Axes) -> None:
    draw_layers(axes, run, quantity, *measured(run, quantity))
    if quantity == "cosine_distance":
        _finish_rotation(axes)
