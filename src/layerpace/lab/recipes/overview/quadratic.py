"""Recipe noisy-quadratic: steps to a target against the batch size in the model of `quadratic_model`; no training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from .quadratic_model import MOST_STEPS, OSCILLATION
from .scaling_curve import SLACK, extent, perfect, slopes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULES: dict[str, dict[str, Any]] = {  # momentum, power, averages
    "SGD": {},
    "momentum 0.9": {"momentum": 0.9},
    "momentum 0.99": {"momentum": 0.99},
    "preconditioned, p = 1/4": {"power": 0.25},
    "preconditioned, p = 1/2": {"power": 0.5},
    "p = 1/2, momentum 0.9": {"power": 0.5, "momentum": 0.9},
    "SGD, averaged weights": {"averages": [0.9, 0.97, 0.99, 0.997, 0.999, 0.9997, 0.9999]},
}
AVERAGED, ROOT = "SGD, averaged weights", "preconditioned, p = 1/2"

CLAIMS = (
    Claim(
        "perfect", "Zhang et al., section 4", "At small batches, doubling the batch halves the steps.",
        "slope of log steps to log batch over the first two octaves, each method without averaging: all in -1 ± 0.05",
    ),
    Claim(
        "diminishing", "Zhang et al., section 4", "The gain of a larger batch shrinks steadily, until there is none.",
        "slope of each octave at least the one before - 0.05, and the last above -0.1, each method without averaging",
    ),
    Claim(
        "momentum-small", "Zhang et al., section 4", "At a tiny batch momentum has no advantage over SGD.",
        "steps of momentum 0.9 / steps of SGD at the smallest batch, each at its best rate: in 1 ± 0.1",
    ),
    Claim(
        "momentum-extends", "overview, slide Momentum Pros/Cons", "Momentum extends perfect scaling to larger batches.",
        f"batch where steps exceed {SLACK} times perfect scaling's: momentum 0.9 / SGD at least 2",
    ),
    Claim(
        "preconditioning-extends", "Zhang et al., section 4", "Preconditioning extends perfect scaling, too.",
        f"batch where steps exceed {SLACK} times perfect scaling's: p = 1/2 / SGD at least 2",
    ),
    Claim(
        "preconditioning-fewer", "Zhang et al., section 4", "Preconditioning takes fewer steps at every batch size.",
        "steps of p = 1/2 / steps of SGD: below 1 at all",
    ),
    Claim(
        "average", "Zhang et al., section 4",
        "Averaging the weights saves steps at small batches and none at large ones.",
        "steps of averaged SGD / steps of SGD: below 0.9 at the smallest batch, at least 0.95 at the largest",
    ),
    Claim(
        "rate", "overview, slide Other Optimization Methods", "As the batch doubles, the best learning rate doubles.",
        "slope of log rate to log batch of SGD, over the octaves within its perfect scaling: mean in 1 ± 0.2",
    ),
)  # fmt: skip


def batches(scale: Scale) -> list[float]:
    return [2.0**place for place in (range(0, 15, 3) if scale.name == "smoke" else range(19))]


def request(scale: Scale, name: str) -> Request:
    """One rule over all batch sizes."""
    rule: dict[str, Any] = {"momentum": 0.0, "power": 0.0, "averages": [0.0], **RULES[name]}
    size = {"dimensions": 20, "target": 0.1, "count": 24, "most": 2**14}
    if scale.name != "smoke":
        size = {"dimensions": 1000, "target": 0.01, "count": 30, "most": MOST_STEPS}
    return {**rule, **size, "batches": batches(scale), "oscillation": OSCILLATION}


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    return [request(scale, name) for name in RULES]


def measure(scale: Scale, records: Records) -> Data:
    """{"batches", "rules": {name: {"steps", "lr", "average", "extent"}}, the sizes of the model}."""
    sizes = batches(scale)
    rules = {}
    for name in RULES:
        rows = records[request(scale, name)].result["rows"]
        steps = [row["steps"] for row in rows]
        rules[name] = {
            "steps": steps,
            "lr": [row["lr"] for row in rows],
            "average": [row["average"] for row in rows],
            "lowest_rate_is_best": [row["batch"] for row in rows if row["edge"]],
            "extent": round(extent(sizes, steps), 2),
        }
    asked = request(scale, "SGD")
    return {"batches": sizes, "rules": rules, "dimensions": asked["dimensions"], "target": asked["target"]}


def judge(data: Data) -> list[Finding]:
    """By exact figures: the model has no noise of its own."""
    sizes, rules = data["batches"], data["rules"]
    steps = {name: rule["steps"] for name, rule in rules.items()}
    if any(value is None for values in steps.values() for value in values):
        missing = ", ".join(name for name, values in steps.items() if None in values)
        return [Finding(claim, "not decided", f"target not reached at some batch: {missing}") for claim in CLAIMS]
    slope = {name: slopes(sizes, values) for name, values in steps.items()}
    plain = [name for name in rules if name != AVERAGED]
    first = [value for name in plain for value in slope[name][:2]]
    steady, worst = max((a - b, name) for name in plain for a, b in pairwise(slope[name]))
    last = min(slope[name][-1] for name in plain)
    small = steps["momentum 0.9"][0] / steps["SGD"][0]
    extents = {name: rules[name]["extent"] for name in rules}
    momentum, root = (extents[name] / extents["SGD"] for name in ("momentum 0.9", ROOT))
    fewer = max(a / b for a, b in zip(steps[ROOT], steps["SGD"], strict=True))
    averaged = [steps[AVERAGED][at] / steps["SGD"][at] for at in (0, -1)]
    grown = slopes(sizes, rules["SGD"]["lr"])
    within = [value for value, batch in zip(grown, sizes[1:], strict=True) if batch <= extents["SGD"]] or grown[:1]
    rate = sum(within) / len(within)
    ours: list[tuple[bool, str]] = [
        (min(first) >= -1.05 and max(first) <= -0.95, f"slopes {min(first):.3f} to {max(first):.3f}"),
        (
            steady <= 0.05 and last > -0.1,
            f"by {steady:.3f} steeper at most ({worst}); last from {last:.3f} up",
        ),
        (0.9 <= small <= 1.1, f"{small:.3f} times SGD's steps at batch {sizes[0]:g}"),
        (momentum >= 2, f"{momentum:.1f} times: {extents['momentum 0.9']:.0f} against {extents['SGD']:.0f}"),
        (root >= 2, f"{root:.1f} times: {extents[ROOT]:.0f} against {extents['SGD']:.0f}"),
        (fewer < 1, f"at most {fewer:.2f} times SGD's steps"),
        (averaged[0] < 0.9 and averaged[1] >= 0.95, f"{averaged[0]:.2f} and {averaged[1]:.2f} times SGD's steps"),
        (0.8 <= rate <= 1.2, f"slope {rate:.2f}"),
    ]
    verdicts: dict[bool, Verdict] = {True: "holds", False: "does not hold"}
    return [Finding(claim, verdicts[holds], text) for claim, (holds, text) in zip(CLAIMS, ours, strict=True)]


def draw_curves(axes: Axes, sizes: Sequence[float], steps: dict[str, list[float | None]]) -> None:
    """Steps against the batch, log-log, with perfect scaling from SGD's first point."""
    tidy(axes)
    for number, (name, values) in enumerate(steps.items()):
        known = [float("nan") if value is None else value for value in values]
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        axes.plot(sizes, known, color=colour, linewidth=1.6, marker=".", markersize=4, label=name)
    least = min((value for values in steps.values() for value in values if value is not None), default=1.0)
    reference = next((values for values in steps.values() if any(value is not None for value in values)), None)
    if reference is not None:
        ideal = [(b, v) for b, v in zip(sizes, perfect(sizes, reference), strict=True) if v >= least]
        axes.plot(*zip(*ideal, strict=True), color="0.5", linestyle=":", linewidth=1.2, label="perfect scaling")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("batch size")
    axes.set_ylabel("steps to the target")


def draw(data: Data) -> Figure:
    """Steps, the best rate, and the slope against the batch size (Zhang et al., figures 2 to 4 in one)."""
    figure = new_figure(12.5, 4.6)
    left, middle, right = figure.subplots(1, 3)
    sizes, rules = data["batches"], data["rules"]
    draw_curves(left, sizes, {name: rule["steps"] for name, rule in rules.items()})
    left.set_title("steps at the best rate", fontsize=10)
    for axes in (middle, right):
        tidy(axes)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("batch size")
    centres = [(a * b) ** 0.5 for a, b in pairwise(sizes)]
    for number, rule in enumerate(rules.values()):
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        middle.plot(sizes, rule["lr"], color=colour, linewidth=1.6, marker=".", markersize=4)
        if None not in rule["steps"]:
            right.plot(centres, slopes(sizes, rule["steps"]), color=colour, linewidth=1.6)
    middle.set_yscale("log")
    middle.set_ylabel("learning rate")
    middle.set_title("best rate", fontsize=10)
    for level in (-1, 0):
        right.axhline(level, color="0.5", linestyle=":", linewidth=1)
    right.set_ylabel("d log steps / d log batch")
    right.set_title("from perfect scaling (-1) to none (0)", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"Noisy quadratic model: {data['dimensions']} dimensions, loss to {data['target']}", fontsize=11)
    return figure


RECIPES = (
    Recipe(
        name="noisy-quadratic",
        paper="overview",
        shows=("slide Momentum Pros/Cons: perfect scaling", "Zhang et al. 2019: the noisy quadratic model"),
        title="The noisy quadratic model: steps to a target loss against the batch size",
        claims=CLAIMS,
        setup={
            "smoke": "20 dimensions, 5 batch sizes.",
            "cpu": "1000 dimensions with curvature and noise 1/i, start 1 in each, loss from 3.74 to 0.01; batch 1 to "
            "2^18; 30 rates in factors of 1.5, then 11 between the neighbours of the best. Exact second moments, "
            "nothing sampled; the first step at or below the target counts, also where momentum oscillates. Zhang et "
            "al. have 10,000 dimensions, and schedules beside constant rates.",
            "paper": "As at cpu scale.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
        runner="layerpace.recipes.overview.quadratic_model:run",
    ),
)
