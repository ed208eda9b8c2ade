"""Table 1 and figure 1 of the LAMBC paper: clipped at 1 against not clipped, at three batch sizes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import new_figure
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import above, difference, interval, percent
from . import pictures
from .measures import outcome, without
from .runs import NONE, finished, network, planned, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIPS = ("1", NONE)
PAPER = {1000: (87.71, 85.68), 2000: (87.3, 86.61), 3000: (86.29, 85.41)}
EXTREME = 10.0
POINTS = " points"
PAIRED = "paired by seed, 95% interval"
SHARE = (
    "Every tensor has a trust ratio, as in algorithm 1 and the LAMB implementations of its time; lr 1e-2, constant, no "
    "weight decay, no augmentation (the paper says nothing of the last three). Accuracies are means of the last "
    "quarter's evaluations: at a constant rate a single one goes up and down by points (seen in the first runs, which "
    "were to be judged by the last evaluation alone)."
)

BETTER = tuple(
    Claim(
        key=f"batch-{batch}",
        where="table 1, figure 1",
        says=f"At batch {batch} clipping at 1 gives a higher test accuracy than no clip.",
        paper=f"{clip}% against {none}%",
        test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0.",
    )
    for batch, (clip, none) in PAPER.items()
)
MOST = Claim(
    key="most-at-1000",
    where="section 4.1",
    says="Clipping gains most at the smallest of the three batch sizes.",
    paper="2.0 points at 1000, 0.7 and 0.9 at 2000 and 3000",
    test=f"Gain at the first batch size less the mean gain at the others, {PAIRED} above 0.",
)
LATER = Claim(
    key="later",
    where="section 4.2, figure 1",
    says="Runs with the clip overtake the others late in training only.",
    test="Mean over the batch sizes of a seed: gain in the last quarter's evaluations less gain in the first "
    f"quarter's, {PAIRED} above 0, and the gain in the first quarter not above 0 (its interval).",
)
WILD = Claim(
    key="extreme",
    where="sections 1 and 3",
    says="Without a clip trust ratios are extreme.",
    test=f"In every run without clip some tensor's ratio is above {EXTREME:g} at a record after the first tenth of the "
    "steps; it does not hold if none is in any run.",
)
CLAIMS = (*BETTER, MOST, LATER, WILD)


def pairs(scale: Scale) -> list[tuple[str, int]]:
    return [(clip, batch) for batch in setting(scale).batches for clip in CLIPS]


def runs(scale: Scale, records: Records) -> list[Request]:
    return planned(setting(scale), pairs(scale))


def measure(scale: Scale, records: Records) -> Data:
    """{"batches": [...], "scale", "panels": {batch: {clip: outcome}}}; ratios are of the runs without clip alone."""
    chosen = setting(scale)
    panels: dict[str, dict[str, Any]] = {}
    for clip, batch in pairs(scale):
        found = finished(chosen, records, clip, batch)
        undrawn = ("applied",) if clip == NONE else ("applied", "ratios", "above")
        panels.setdefault(str(batch), {})[clip] = without(outcome(found, chosen, batch), *undrawn)
    return {"scale": scale.name, "batches": list(chosen.batches), "panels": panels}


def gains(panel: dict[str, Any], name: str = "scores") -> list[float]:
    """Accuracy with the clip less accuracy without, for each seed."""
    return [clip - none for clip, none in zip(panel["1"][name], panel[NONE][name], strict=True)]


def judge(data: Data) -> list[Finding]:
    panels = [data["panels"][str(batch)] for batch in data["batches"]]
    found = []
    for claim, batch, panel in zip(BETTER, data["batches"], panels, strict=True):
        gain = difference(panel["1"]["scores"], panel[NONE]["scores"])
        both = f"{percent(panel['1']['scores'])} against {percent(panel[NONE]['scores'])}"
        learnt = f"training images {percent(panel['1']['train'])} and {percent(panel[NONE]['train'])}"
        found.append(Finding(claim, above(gain), f"batch {batch}: {both}: {gain.text(100, POINTS)}; {learnt}"))
    first, *others = (gains(panel) for panel in panels)
    rest = [statistics.fmean(values) for values in zip(*others, strict=True)]
    more = difference(first, rest)
    text = ", ".join(f"{100 * statistics.fmean(gains(panel)):+.2f}" for panel in panels)
    found.append(Finding(MOST, above(more), f"gains {text}{POINTS}; the first less the others {more.text(100)}"))
    return [*found, later(panels), wild(panels)]


def later(panels: Sequence[dict[str, Any]]) -> Finding:
    ends, starts = over_batches(panels, "scores"), over_batches(panels, "early")
    grown, early = difference(ends, starts), interval(starts)
    verdict = above(grown)
    if above(early) == "holds":
        verdict = "does not hold"
    ours = f"first quarter {early.text(100, POINTS)}, last {interval(ends).text(100)}, grown by {grown.text(100)}"
    return Finding(LATER, verdict, ours)


def over_batches(panels: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Mean gain over the batch sizes, for each seed: they share the seeds, so they are not independent."""
    return [statistics.fmean(values) for values in zip(*(gains(panel, name) for panel in panels), strict=True)]


def wild(panels: Sequence[dict[str, Any]]) -> Finding:
    largest = [value for panel in panels for value in panel[NONE]["largest"]]
    middle = max(max(panel[NONE]["ratios"]["kernels"]["middle"]) for panel in panels)
    over = {
        kind: 100 * statistics.fmean(panel[NONE]["above"][kind]["1"] for panel in panels)
        for kind in ("kernels", "scales")
    }
    ours = (
        f"largest ratio of a run {min(largest):.3g} to {max(largest):.3g}; above 1: {over['kernels']:.0f}% of the "
        f"kernels' (their median is at most {middle:.2g}), {over['scales']:.0f}% of those of BatchNorm's scales"
    )
    if all(value > EXTREME for value in largest):
        return Finding(WILD, "holds", ours)
    return Finding(WILD, "not decided" if max(largest) > EXTREME else "does not hold", ours)


def draw(data: Data) -> Figure:
    """Above, figure 1 with the figures of table 1 in its keys; below, the ratios that the clip would have cut."""
    batches = data["batches"]
    figure = new_figure(4.2 * len(batches), 7.2)
    axes: Any = figure.subplots(2, len(batches), squeeze=False, sharey="row")
    for place, batch in enumerate(batches):
        panel = data["panels"][str(batch)]
        pictures.curves(axes[0][place], {clip: panel[clip] for clip in CLIPS})
        axes[0][place].set_title(f"batch {batch}", fontsize=10)
        pictures.ratios(axes[1][place], panel[NONE], [1.0])
        axes[1][place].set_title("no clip: ratios from smallest to largest", fontsize=10)
        if place:
            axes[1][place].get_legend().remove()
    for row in axes:
        for one in row[1:]:
            one.set_ylabel("")
    figure.suptitle(f"{network(data)}: LAMB, its trust ratio clipped at 1 or not", fontsize=11)
    return figure


TABLE_1 = Recipe(
    name="lambc-table-1",
    paper="lambc",
    version=2,
    shows=("table 1", "figure 1"),
    title="Trust ratio clipped at 1 against no clip, at three batch sizes",
    claims=CLAIMS,
    setup={
        "smoke": "ResNet-18 of width 16, 48 of scikit-learn's digits, one epoch, one seed.",
        "cpu": "ResNet-18 of width 8 on 2000 images of CIFAR-10, 20 epochs, bf16, 5 seeds. Batch 40, 80 and 120 stand "
        "for 1000, 2000 and 3000: the same shares of the data, so as many steps an epoch (50, 25, 16) as there, for a "
        f"quarter of the epochs. Five seeds may not decide effects of the paper's size, 0.7 to 2 points. {SHARE}",
        "paper": f"ResNet-18, all of CIFAR-10, 80 epochs, batch 1000, 2000 and 3000, bf16, 5 seeds. {SHARE}",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
