"""What the page's script reads: all curves of all runs, thinned until they fit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..run import Run, Series
from .charts import Chart, clipped_share, ends, measured
from .thin import pack, pack_curves

POINTS = 600  # finite values a curve, at best: as many as pixels
FEWEST = 24
SCALAR_POINTS = 3000
BUDGET = 7_400_000  # bytes of all curves, of the 8 MB that a page may have
BANDS = ("second_moment_p10", "second_moment_p90")


def layer_names(runs: Sequence[Run]) -> list[str]:
    """Layers of all runs, from input to output; those that only a later run has come after."""
    return list(dict.fromkeys(name for run in runs for name in run.history.layers))


def curves(run: Run, quantity: str, points: int) -> dict[str, Any]:
    """A quantity of one run, over the records that have it."""
    values = run.history[quantity]
    (rows,) = torch.nonzero((~torch.isnan(values)).any(1), as_tuple=True)
    values = values[rows]
    steps = torch.tensor(run.history.steps, device="cpu")[rows].to(torch.float64)
    packed: dict[str, Any] = pack_curves(values, points, steps)
    packed |= {name: pack(x.to(torch.float32)) for name, x in ends(values).items()}
    return packed


def scalar(series: Series) -> dict[str, Any]:
    """A user's scalar, over its own steps."""
    steps = torch.tensor(series.steps, dtype=torch.float64, device="cpu")
    values = torch.tensor([math.nan if x is None else x for x in series.values], dtype=torch.float32, device="cpu")
    values = torch.where(torch.isinf(values), torch.inf, values)
    return pack_curves(values.unsqueeze(1), SCALAR_POINTS, steps)


def of_run(run: Run, charts: Sequence[Chart], places: dict[str, int], points: int) -> dict[str, Any]:
    quantities = [chart.quantity for chart in charts if measured(run, chart.quantity)]
    if "second_moment_p50" in quantities:
        quantities += [name for name in BANDS if measured(run, name)]
    clipped = clipped_share(run)
    return {
        "layers": [places[name] for name in run.history.layers],
        "quantities": {name: curves(run, name, points) for name in quantities},
        "clipped": None if clipped is None else pack(clipped.to(torch.float32)),
        "scalars": {name: scalar(series) for name, series in run.scalars.items() if series.steps},
    }


def payload(
    runs: Sequence[Run], names: Sequence[str], groups: Sequence[int], charts: Sequence[Chart], budget: int = BUDGET
) -> tuple[str, int]:
    """Everything that the charts are drawn from.

    Args:
        runs: at least one.
        names: of the runs, one each.
        groups: of each run: those of one group have one colour.
        charts: see `layerpace.monitors.report.charts`.
        budget: bytes.

    Returns:
        (JSON that may stand inside a <script> element, values kept of a curve).

    Raises:
        ValueError: so many runs and layers that they do not fit at all.
    """
    layers = layer_names(runs)
    places = {name: place for place, name in enumerate(layers)}
    points = POINTS
    while True:
        made = {
            "points": points,
            "layers": layers,
            "charts": [
                {"quantity": c.quantity, "title": c.title, "unit": c.unit, "log": c.log, "noisy": c.noisy}
                for c in charts
            ],
            "scalars": list(
                dict.fromkeys(name for run in runs for name, series in run.scalars.items() if series.steps)
            ),
            "runs": [
                {"name": name, "group": group, **of_run(run, charts, places, points)}
                for name, group, run in zip(names, groups, runs, strict=True)
            ],
        }
        text = json.dumps(made, separators=(",", ":"), allow_nan=False)
        if len(text) <= budget:
            return text.replace("<", "\\u003c"), points
        if points <= FEWEST:
            raise ValueError(
                f"{len(runs)} runs of {len(layers)} layers do not fit into one page: report fewer at a time"
            )
        points = max(FEWEST, min(points * 9 // 10, int(0.98 * points * budget / len(text))))
