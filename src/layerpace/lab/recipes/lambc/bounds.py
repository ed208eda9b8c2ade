"""Figure 2 of the LAMBC paper, bounds of 1, 3, 5 and 10, and the bounds that it leaves as future work."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import METHOD_COLOURS, new_figure
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from ..statistics import Interval, above, below, difference, every, interval, percent
from . import pictures
from .measures import KINDS, outcome, without
from .runs import BOUNDS, NONE, finished, network, planned, setting
from .table import PAIRED, POINTS, SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = (*BOUNDS, NONE)
ADAPTIVE = ("running 1", "running 2", "tightening", "falling")
COMPARED = ("1", *ADAPTIVE, NONE)
SMALL = "ResNet-18 of width 16, 48 of scikit-learn's digits, one epoch, one seed."
CPU = (
    "As lambc-table-1 at its smallest batch (40 of 2000 images, for 1000 of 50000), 5 seeds, 1000 steps; the runs with "
    "the clip at 1 and without one are the same. "
)

ALL = Claim(
    key="all-above-none",
    where="figure 2",
    says="Every bound (1, 3, 5, 10) gives a higher test accuracy than no clip.",
    test=f"Each of the four differences of the mean test accuracies of the last quarter, {PAIRED} above 0.",
)
BEST = Claim(
    key="one-is-best",
    where="figure 2",
    says="A bound of 1 is better than 3, 5 and 10.",
    test=f"Each of the three differences, {PAIRED} above 0.",
)
WORST = Claim(
    key="ten-is-worst",
    where="figure 2",
    says="A bound of 10 is worse than 3 and 5.",
    test=f"Both differences, {PAIRED} below 0.",
)
TREND = Claim(
    key="falls-with-the-bound",
    where="figure 2",
    says="The looser the bound, the lower the test accuracy.",
    test="Slope of the mean accuracy of the last quarter over ln(bound), fitted for each seed, 95% interval below 0.",
)

BOUNDS_HELP = Claim(
    key="adabound-above-none",
    where="section 3",
    says="AdaBound's tightening bounds on the ratio are better than no clip.",
    test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0.",
)
NOT_AS_FIXED = Claim(
    key="adabound-below-fixed",
    where="section 3",
    says="AdaBound's tightening bounds on the ratio are not as good as the fixed bound of 1.",
    test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} below 0.",
)
FALLING = Claim(
    key="falling-above-fixed",
    where="section 4.2",
    says="A bound that starts at 10 and falls to 1 is better than a bound of 1 from the start (a proposal).",
    test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0.",
)
RUNNING = {
    f"running {number}": tuple(
        Claim(
            key=f"{key}-above-{other}",
            where="section 5",
            says=f"A bound for each tensor, {deviations} above its ratio's running mean, is better than {than}.",
            test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0.",
        )
        for other, than in (("fixed", "a bound of 1 for all (a proposal)"), ("none", "no clip"))
    )
    for number, key, deviations in ((1, "running", "one deviation"), (2, "running-2", "two deviations"))
}


def pairs(scale: Scale, clips: Sequence[str]) -> list[tuple[str, int]]:
    """At the smallest of the batch sizes: the paper does not say which one it took."""
    return [(clip, setting(scale).batches[0]) for clip in clips]


def measured(scale: Scale, records: Records, clips: Sequence[str], undrawn: Sequence[str]) -> Data:
    """{"scale", "batch", "clips": {clip: outcome}}.

    Args:
        undrawn: of the outcomes, what the recipe leaves out.
    """
    chosen = setting(scale)
    found = {
        clip: without(outcome(finished(chosen, records, clip, batch), chosen, batch), *undrawn)
        for clip, batch in pairs(scale, clips)
    }
    return {"scale": scale.name, "batch": chosen.batches[0], "clips": found}


def fixed_runs(scale: Scale, records: Records) -> list[Request]:
    return planned(setting(scale), pairs(scale, FIXED))


def fixed_measure(scale: Scale, records: Records) -> Data:
    data = measured(scale, records, FIXED, ("applied",))
    for clip in BOUNDS:  # ratios are drawn of the runs without clip
        data["clips"][clip] = without(data["clips"][clip], "ratios", "above")
    return data


def adaptive_runs(scale: Scale, records: Records) -> list[Request]:
    return planned(setting(scale), pairs(scale, COMPARED))


def adaptive_measure(scale: Scale, records: Records) -> Data:
    return measured(scale, records, COMPARED, ("ratios", "above"))


def gain(data: Data, a: str, b: str) -> Interval:
    return difference(data["clips"][a]["scores"], data["clips"][b]["scores"])


def scores(data: Data) -> str:
    return ", ".join(
        f"{'none' if clip == NONE else clip} {percent(found['scores'])}" for clip, found in data["clips"].items()
    )


def together(claim: Claim, data: Data, compared: Sequence[tuple[str, str]], up: bool = True) -> Finding:
    """Of a claim with a difference for each pair of clips."""
    found = [gain(data, a, b) for a, b in compared]
    verdicts: list[Verdict] = [(above if up else below)(one) for one in found]
    texts = [f"{a} less {b}: {one.text(100)}" for (a, b), one in zip(compared, found, strict=True)]
    return Finding(claim, every(verdicts), f"{'; '.join(texts)}{POINTS}")


def slopes(data: Data) -> list[float]:
    """Accuracy over ln(bound) by least squares, for each seed."""
    xs = [math.log(float(bound)) for bound in BOUNDS]
    columns = zip(*(data["clips"][bound]["scores"] for bound in BOUNDS), strict=True)
    return [statistics.linear_regression(xs, column).slope for column in columns]


def fixed_judge(data: Data) -> list[Finding]:
    none = data["clips"][NONE]["above"]
    cut = ", ".join(f"{100 * none['scales'][bound]:.0f}% above {bound}" for bound in BOUNDS)
    trend = interval(slopes(data))
    all_above = together(ALL, data, [(bound, NONE) for bound in BOUNDS])
    return [
        Finding(ALL, all_above.verdict, f"{scores(data)}; {all_above.ours}"),
        together(BEST, data, [("1", bound) for bound in BOUNDS[1:]]),
        together(WORST, data, [("10", bound) for bound in ("3", "5")], up=False),
        Finding(
            TREND,
            below(trend),
            f"{trend.text(100, POINTS)} for e times the bound; without a clip the ratios of "
            f"BatchNorm's scales are {cut}",
        ),
    ]


def adaptive_judge(data: Data) -> list[Finding]:
    def one(claim: Claim, a: str, b: str, up: bool = True) -> Finding:
        return together(claim, data, [(a, b)], up)

    first = one(BOUNDS_HELP, "tightening", NONE)
    return [
        Finding(BOUNDS_HELP, first.verdict, f"{scores(data)}; {first.ours}"),
        one(NOT_AS_FIXED, "tightening", "1", up=False),
        one(FALLING, "falling", "1"),
        *(one(claim, clip, b) for clip, own in RUNNING.items() for claim, b in zip(own, ("1", NONE), strict=True)),
    ]


def fixed_draw(data: Data) -> Figure:
    """Figure 2, the same accuracies side by side, and the ratios that the bounds would have cut."""
    figure = new_figure(13, 4.2)
    axes: Any = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.1))
    pictures.curves(axes[0], data["clips"])
    pictures.by_seed(axes[1], data["clips"])
    pictures.ratios(axes[2], data["clips"][NONE], [float(bound) for bound in BOUNDS])
    axes[2].set_title("no clip: ratios, and the bounds", fontsize=10)
    figure.suptitle(f"{network(data)}, batch {data['batch']}: bounds of the trust ratio", fontsize=11)
    return figure


def adaptive_draw(data: Data) -> Figure:
    """Accuracies as in figure 2, and what each clip leaves of the ratios."""
    figure = new_figure(13, 7.6)
    rows: Any = [["curves"] * 3 + ["seeds"] * 3, [kind for kind in KINDS for _ in range(2)]]
    axes: Any = figure.subplot_mosaic(rows)
    clips = data["clips"]
    pictures.curves(axes["curves"], clips)
    pictures.by_seed(axes["seeds"], clips)
    for kind in KINDS:
        pictures.applied(axes[kind], clips, kind)
        axes[kind].axhline(1, color=METHOD_COLOURS[0], linewidth=0.8, linestyle=":")
        axes[kind].set_title(pictures.NAMES[kind], fontsize=10)
    axes[KINDS[0]].legend(loc="best", fontsize=8, frameon=False)
    figure.suptitle(f"{network(data)}, batch {data['batch']}: bounds that adapt", fontsize=11)
    return figure


FIGURE_2 = Recipe(
    name="lambc-figure-2",
    paper="lambc",
    version=2,
    shows=("figure 2",),
    title="Trust ratio clipped at 1, 3, 5 or 10, or not at all",
    claims=(ALL, BEST, WORST, TREND),
    setup={
        "smoke": SMALL,
        "cpu": CPU + SHARE,
        "paper": "ResNet-18, all of CIFAR-10, 80 epochs, batch 1000 (the paper does not say which), bf16, 5 seeds. "
        + SHARE,
    },
    runs=fixed_runs,
    measure=fixed_measure,
    judge=fixed_judge,
    draw=fixed_draw,
)

ADAPTIVE_BOUNDS = Recipe(
    name="lambc-adaptive-bounds",
    paper="lambc",
    version=2,
    shows=("section 3 (AdaBound's bounds)", "section 4.2 (a falling bound)", "section 5 (running mean and deviation)"),
    title="Bounds that adapt, which the paper leaves as future work, against the fixed bound of 1",
    claims=(BOUNDS_HELP, NOT_AS_FIXED, FALLING, *RUNNING["running 1"], *RUNNING["running 2"]),
    setup={
        "smoke": SMALL,
        "cpu": CPU
        + "Running: upper bound of each tensor, one or two standard deviations above the mean of some hundred ratios "
        "before (the paper leaves the number open). Tightening: 1 - 1/(gamma*t + 1) to 1 + 1/(gamma*t), gamma 4/steps. "
        f"Falling: 10 to 1, geometric, over the first half of the steps. {SHARE}",
        "paper": f"ResNet-18, all of CIFAR-10, 80 epochs, batch 1000, bf16, 5 seeds; AdaBound's gamma 1e-3. {SHARE}",
    },
    runs=adaptive_runs,
    measure=adaptive_measure,
    judge=adaptive_judge,
    draw=adaptive_draw,
)
