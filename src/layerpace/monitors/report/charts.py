"""Which charts a page has, what they are called, and what each says in words.

The words are the text alternative of a chart: they are made from all records, not from what the chart shows of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..run import Run


@dataclass(frozen=True)
class Chart:
    """One quantity of the layers.

    Attributes:
        quantity: as in `layerpace.monitors.quantities`.
        title: of the chart.
        unit: of its axis.
        meaning: one sentence for a reader who has never seen it.
        log: the axis starts as logarithmic.
        noisy: lines of very many layers hide one another: a heat map then.
    """

    quantity: str
    title: str
    unit: str
    meaning: str
    log: bool
    noisy: bool = False


CHARTS = (
    Chart(
        "relative_update_l1",
        "Relative update",
        "‖ΔW‖₁ / ‖W‖₁",
        "The share of a layer that one step changes. Layers that train at one pace lie close together; 0.001 is 0.1%.",
        True,
        True,
    ),
    Chart(
        "rotation_angle",
        "Rotation in a step",
        "radians",
        "The angle by which one step turns the layer's weights: the part of the update that is not mere scaling.",
        True,
        True,
    ),
    Chart(
        "cosine_distance",
        "Layer rotation curves",
        "cosine distance to the start",
        "How far a layer has turned away from its initial weights: 0 not at all, 1 at a right angle to them.",
        False,
    ),
    Chart(
        "trust_ratio",
        "Trust ratio",
        "factor on the learning rate",
        "The factor that the layer-wise rule puts on the learning rate, after clipping.",
        True,
        True,
    ),
    Chart("weight_norm", "Weight norm", "‖W‖₂", "The length of a layer's weights before the step.", True),
    Chart("grad_norm", "Gradient norm", "‖G‖₂", "The length of a layer's gradient, without weight decay.", True, True),
    Chart("update_norm", "Update norm", "‖ΔW‖₂", "The length of what the step subtracts from a layer.", True, True),
    Chart(
        "second_moment_p50",
        "Second moment",
        "percentiles of v over the layer",
        "The optimizer's second moment over a layer's entries: median as a line, 10th to 90th percentile as a band.",
        True,
        True,
    ),
    Chart(
        "silhouette",
        "Silhouette of the feedback",
        "score",
        "How well the feedback that reaches a layer separates the classes: 1 cleanly, 0 not at all.",
        False,
    ),
    Chart(
        "learning_rate",
        "Learning rate",
        "",
        "Of the layer's parameter group: the schedule, times the layer's multiplier if it has one.",
        False,
    ),
)


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """Those that some run has values for; a learning rate that never changes needs no chart."""
    charts = [chart for chart in CHARTS if any(measured(run, chart.quantity) for run in runs)]
    return [chart for chart in charts if chart.quantity != "learning_rate" or any(map(_has_schedule, runs))]


def _has_schedule(run: Run) -> bool:
    if not measured(run, "learning_rate"):
        return False
    rates = run.history["learning_rate"]
    rates = rates[~torch.isnan(rates)]
    return bool((rates != rates[0]).any())


def measured(run: Run, quantity: str) -> bool:
    return quantity in run.history and not bool(torch.isnan(run.history[quantity]).all())


def digits(x: float) -> str:
    """A value to read: three significant digits."""
    if math.isnan(x):
        return "not measured"
    if math.isinf(x):
        return "not finite"
    if x != 0 and not 1e-3 <= abs(x) < 1e4:
        mantissa, _, power = f"{x:.2e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{float(f'{x:.3g}'):g}"


def ends(values: Tensor) -> dict[str, Tensor]:
    """Of each curve, over all records: first, last, least and largest value.

    Args:
        values: [R, L]; nan: not measured.

    Returns:
        float32 [L] by name; nan for a curve that was never measured; ``least`` is of the finite values.
    """
    there = ~torch.isnan(values)
    columns = torch.arange(values.shape[1], device="cpu")
    never = ~there.any(0)
    first = values[there.to(torch.uint8).argmax(0), columns]
    last = values[len(values) - 1 - there.flip(0).to(torch.uint8).argmax(0), columns]
    least = torch.where(torch.isfinite(values), values, torch.inf).amin(0)
    largest = torch.where(there, values, -torch.inf).amax(0)
    made = {"first": first, "last": last, "least": least, "largest": largest}
    return {name: torch.where(never, torch.nan, x) for name, x in made.items()}


def clipped_share(run: Run) -> Tensor | None:
    """float32 [L], share of the records in which clipping changed a layer's ratio; nan: no ratio. None: not known."""
    if "trust_ratio" not in run.history or "trust_ratio_unclipped" not in run.history:
        return None
    after, before = run.history["trust_ratio"], run.history["trust_ratio_unclipped"]
    there = ~torch.isnan(after) & ~torch.isnan(before)
    bound = there & ((after - before).abs() > 1e-6 * before.abs())
    return bound.sum(0) / there.sum(0)


def in_words(chart: Chart, run: Run) -> str:
    """One or two sentences that say what the chart shows of a run."""
    if not measured(run, chart.quantity):
        return "Not measured."
    values = run.history[chart.quantity]
    (rows,) = torch.nonzero((~torch.isnan(values)).any(1), as_tuple=True)
    steps = run.history.steps
    last = ends(values)["last"]
    names = run.history.layers
    known = [(float(x), name) for x, name in zip(last, names, strict=True) if math.isfinite(x)]
    said = [f"Steps {steps[int(rows[0])]} to {steps[int(rows[-1])]}, {_count(len(rows), 'record')}."]
    if len(known) > 1:
        (low, lowest), (high, highest) = min(known), max(known)
        middle = float(torch.tensor([x for x, _ in known], device="cpu").median())
        if digits(low) == digits(high):
            said.append(f"At the end {digits(low)} in all layers.")
        else:
            span = f"At the end {digits(low)} ({lowest}) to {digits(high)} ({highest}), median {digits(middle)}"
            said.append(span + (f"; the highest is {digits(high / low)} times the lowest." if low > 0 else "."))
    elif known:
        said.append(f"At the end {digits(known[0][0])} ({known[0][1]}).")
    wrong = torch.isinf(values).any(0)
    if bool(wrong.any()):
        row = int(torch.isinf(values).any(1).to(torch.uint8).argmax())
        said.append(f"Not finite in {_count(int(wrong.sum()), 'layer')}, first at step {steps[row]}.")
    clipped = clipped_share(run) if chart.quantity == "trust_ratio" else None
    if clipped is not None and not bool(torch.isnan(clipped).all()):
        most = int(clipped.nan_to_num(-1).argmax())
        mean = float(clipped[~torch.isnan(clipped)].mean())
        said.append(f"Clipped in {mean:.0%} of all values" + (f", most in {names[most]}." if mean > 0 else "."))
    return " ".join(said)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
