"""How trust ratios spread over tensors, and whether the clip matters where BatchNorm and biases have none."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import GREY, METHOD_COLOURS, new_figure, tidy
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Record, Records
from ..statistics import above, difference, percent
from . import pictures
from .measures import KINDS, digits, kind_of, outcome
from .runs import NONE, network, setting
from .table import PAIRED, POINTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIPS = ("1", NONE, "kernels 1", f"kernels {NONE}")
SEEDS = 3  # at most
APART = 10.0

VARY = Claim(
    key="ratios-vary",
    where="section 5",
    says="Trust ratios differ much among layers (here: tensors, BatchNorm's scales and shifts among them).",
    test=f"In every run without clip the largest median ratio of a tensor is more than {APART:g} times the smallest; "
    "it does not hold if it is not in any.",
)
SCALES = Claim(
    key="clip-cuts-scales",
    where="beyond the paper",
    says="A clip at 1 cuts BatchNorm's scales more than kernels.",
    test=f"Share of the ratios above 1 in runs without clip, scales less kernels, {PAIRED} above 0.",
)
KERNELS = Claim(
    key="kernels-only",
    where="beyond the paper",
    says="Where only kernels have a ratio, clipping at 1 still gives a higher test accuracy than no clip.",
    test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0.",
)


def requests(scale: Scale, clip: str) -> list[Request]:
    return setting(scale).requests(clip, setting(scale).batches[0])[:SEEDS]


def runs(scale: Scale, records: Records) -> list[Request]:
    return [request for clip in CLIPS for request in requests(scale, clip)]


def measure(scale: Scale, records: Records) -> Data:
    """{"scale", "batch", "clips": {clip: {"scores"}}, "tensors": [[kind, low, median, high]], "apart", "above"}.

    "tensors", from input to output, are of the runs without clip, over records and seeds; "apart" and "above" have a
    figure for each seed: the largest median over the smallest, and by kind the share above 1.
    """
    chosen, batch = setting(scale), setting(scale).batches[0]
    found = {clip: outcome(records.of(requests(scale, clip)), chosen, batch) for clip in CLIPS}
    free = [by_tensor(run) for run in records.of(requests(scale, NONE))]
    kinds = {layer: kind_of(layer, run.layers) for run in records.of(requests(scale, NONE)) for layer in free[0]}
    tensors = []
    for layer in free[0]:
        values = [value for one in free for value in one.get(layer, [])]
        tensors.append([kinds[layer], *(digits(x) for x in (min(values), statistics.median(values), max(values)))])
    medians = [[statistics.median(values) for values in one.values()] for one in free]
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for one in free:
        for kind in KINDS:
            own = [value for layer, values in one.items() if kinds[layer] == kind for value in values]
            shares[kind].append(digits(sum(value > 1 for value in own) / max(len(own), 1)))
    return {
        "scale": scale.name,
        "batch": batch,
        "clips": {clip: {"scores": one["scores"]} for clip, one in found.items()},
        "tensors": tensors,
        "apart": [digits(max(one) / min(one)) for one in medians],
        "above": shares,
    }


def by_tensor(run: Record) -> dict[str, list[float]]:
    """The ratios of each tensor that are defined and not zero; tensors without one are left out."""
    found = {layer: run.series("trust_ratio", layer)[1] for layer in run.history.layers}
    positive = {layer: [x for x in values if 0 < x < float("inf")] for layer, values in found.items()}
    return {layer: values for layer, values in positive.items() if values}


def judge(data: Data) -> list[Finding]:
    apart = data["apart"]
    wide = [value > APART for value in apart]
    verdict: Any = "holds" if all(wide) else "not decided" if any(wide) else "does not hold"
    scales, kernels = data["above"]["scales"], data["above"]["kernels"]
    more = difference(scales, kernels)
    clip, none = (data["clips"][name]["scores"] for name in CLIPS[2:])
    gain = difference(clip, none)
    everywhere = difference(*(data["clips"][name]["scores"] for name in CLIPS[:2]))
    kernels_alone = [middle for kind, _, middle, _ in data["tensors"] if kind == "kernels"]
    between = f"; between kernels alone {max(kernels_alone) / min(kernels_alone):.2g} times"
    return [
        Finding(
            VARY, verdict, f"the largest median is {min(apart):.3g} to {max(apart):.3g} times the smallest{between}"
        ),
        Finding(SCALES, above(more), f"{percent(scales, 1)} of the scales', {percent(kernels, 1)} of the kernels'"),
        Finding(
            KERNELS,
            above(gain),
            f"{percent(clip)} against {percent(none)}: {gain.text(100, POINTS)}; with a ratio for every tensor "
            f"{everywhere.text(100)}",
        ),
    ]


def draw(data: Data) -> Figure:
    """Left, the ratios of every tensor from input to output; right, the accuracies with and without the clip."""
    figure = new_figure(13, 4.6)
    axes: Any = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for kind, tint in zip(KINDS, METHOD_COLOURS, strict=False):
        own = [(place, *rest) for place, (found, *rest) in enumerate(data["tensors"]) if found == kind]
        if own:
            places, low, middle, high = zip(*own, strict=True)
            axes[0].vlines(places, low, high, color=tint, alpha=0.4, linewidth=3)
            axes[0].plot(places, middle, "o", color=tint, markersize=4, label=pictures.NAMES[kind])
    axes[0].axhline(1, color=GREY, linewidth=0.9, linestyle="--")
    axes[0].set_yscale("log")
    axes[0].set_xlabel("tensor, from input to output")
    axes[0].set_ylabel("trust ratio, no clip: range and median")
    axes[0].legend(fontsize=8, frameon=False)
    tidy(axes[0])
    pictures.by_seed(axes[1], data["clips"])
    figure.suptitle(f"{network(data)}, batch {data['batch']}: which tensors the clip acts on", fontsize=11)
    return figure


LAYERS = Recipe(
    name="lambc-layerwise-ratios",
    paper="lambc",
    version=2,
    shows=("section 5 (ratios differ among layers)",),
    title="Trust ratios by tensor, and the clip where only kernels have one",
    claims=(VARY, SCALES, KERNELS),
    setup={
        "smoke": "As lambc-table-1 at its smallest batch.",
        "cpu": "As lambc-table-1 at its smallest batch, with 3 of its seeds; and the same with layerpace's default, "
        "where tensors of one dimension have plain Adam's step.",
        "paper": "As lambc-table-1 at batch 1000, with 3 of its seeds, and the same with ratios for kernels only.",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
