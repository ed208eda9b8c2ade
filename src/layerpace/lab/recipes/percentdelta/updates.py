"""PercentDelta, figure 1: by what share each layer changes in a step, under PercentDelta and under SGD.

The paper counts steps from 0 and the lab's monitor from 1, and it records the first step and multiples of 15: what is
shown as steps 0, 15, 30 and 45 is the first update and those with which 15, 30 and 45 steps are done. A run that
diverges has none from there on, and with one such run a claim on its method is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from ..statistics import Interval, above, below, interval
from .common import COLOURS, mnist, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..records import Record

# As in the figure's measure both take plain steps: its deltas are those of equations 1 and 6, without momentum.
METHODS = {"PercentDelta": ("percent-delta:momentum=0", 0.03), "SGD": ("sgd:momentum=0", 0.01)}
SMOKE_SGD = 1e-4  # lr of SGD on the badly scaled network of smoke scale
STILL = 1e-12  # what a layer that does not move counts with
NEARLY_EQUAL = 0.5  # decades: a factor of 3.2
ORDERS = 2.0  # decades
FRESH = 10  # the first seed: seeds below it were looked at before the thresholds were set

EQUAL = Claim(
    key="equal",
    where="section 5.1, figure 1",
    says="Under PercentDelta the relative updates of all layers are almost equal, throughout training.",
    paper="bars of equal height to the eye, on a log axis from 1e-7 to 1e-1",
    test=f"log10 of the largest over the smallest relative update of the layers, at the worst of the four steps: "
    f"95% interval of the mean over seeds below {NEARLY_EQUAL} (a factor of 3.2)",
)
APART = Claim(
    key="apart",
    where="section 5.1, figure 1",
    says="Under SGD the relative updates of the layers are orders of magnitude apart.",
    paper="some layers can change all their signs while others change by less than 1%",
    test=f"the same, mean over the four steps: 95% interval of the mean over seeds above {ORDERS:g} (a factor of 100)",
)


def spacing(scale: Scale) -> int:
    return scale.pick(2, 15, 15)


def request(scale: Scale, name: str, seed: int) -> Request:
    method, lr = METHODS[name]
    if scale.name == "smoke" and name == "SGD":
        lr = SMOKE_SGD
    last = 3 * spacing(scale)
    return {
        **mnist(scale),
        "method": method,
        "lr": lr,
        "seed": seed,
        "steps": last,
        "schedule": "constant",
        "record_every": spacing(scale),
        "eval_every": last,
        "eval_size": 50,
    }


def seeds(scale: Scale) -> range:
    return scale.pick(range(2), range(FRESH, FRESH + 8), range(FRESH, FRESH + 8))


def runs(scale: Scale, records: Records) -> list[Request]:
    return [request(scale, name, seed) for name in METHODS for seed in seeds(scale)]


def measure(scale: Scale, records: Records) -> Data:
    every = spacing(scale)
    shown = [1, every, 2 * every, 3 * every]
    found: dict[str, list[list[list[float] | None]]] = {}
    for name in METHODS:
        found[name] = [by_step(records[request(scale, name, seed)], shown) for seed in seeds(scale)]
    layers = records[request(scale, "SGD", seeds(scale)[0])].layers
    names = [layer.removesuffix(".weight") for layer in layers]
    return {"scale": scale.name, "steps": [0, *shown[1:]], "layers": names, "relative_update_l1": found}


def by_step(record: Record, steps: Sequence[int]) -> list[list[float] | None]:
    """Relative updates of the layers, a row a step; None from where a run diverged."""
    series = [dict(zip(*record.series("relative_update_l1", layer), strict=True)) for layer in record.layers]
    rows: list[list[float] | None] = []
    for step in steps:
        values = [layer.get(step, math.inf) for layer in series]
        finite = all(math.isfinite(value) for value in values)
        rows.append(significant([max(value, STILL) for value in values]) if finite else None)
    return rows


def spreads(data: Data, name: str) -> list[list[float]]:
    """log10(largest / smallest) over the layers, [seed][step], of the seeds that did not diverge."""
    found = [steps for steps in data["relative_update_l1"][name] if None not in steps]
    return [[math.log10(max(layers) / min(layers)) for layers in steps] for steps in found]


def judge(data: Data) -> list[Finding]:
    ours = [max(steps) for steps in spreads(data, "PercentDelta")]
    theirs = [sum(steps) / len(steps) for steps in spreads(data, "SGD")]

    def one(claim: Claim, name: str, values: list[float], what: str, verdict: Callable[[Interval], Verdict]) -> Finding:
        number = len(data["relative_update_l1"][name])
        lost = f"; {number - len(values)} of {number} runs diverged" if len(values) < number else ""
        if not values:
            return Finding(claim, "not decided", f"all {number} runs diverged")
        found = interval(values)
        text = f"log10 of largest over smallest, {what}: {found.text()}{lost}"
        return Finding(claim, "not decided" if lost else verdict(found), text)

    return [
        one(EQUAL, "PercentDelta", ours, "worst step", lambda found: below(found, NEARLY_EQUAL)),
        one(APART, "SGD", theirs, "mean of the steps", lambda found: above(found, ORDERS)),
    ]


def draw(data: Data) -> Figure:
    from matplotlib.ticker import LogLocator

    from ....monitors.plots.style import new_figure, tidy

    figure = new_figure(12, 3.6)
    panels = figure.subplots(1, len(data["steps"]), sharey=True)
    places = range(len(data["layers"]))
    for column, (axes, step) in enumerate(zip(panels, data["steps"], strict=True)):
        for offset, (name, found) in zip((-0.2, 0.2), data["relative_update_l1"].items(), strict=True):
            rows = [steps[column] for steps in found if steps[column] is not None]
            if not rows:
                continue
            by_seed = [[row[place] for row in rows] for place in places]
            middle = [math.exp(sum(map(math.log, values)) / len(values)) for values in by_seed]
            ends = [[max(m - min(v), 0.0) for m, v in zip(middle, by_seed, strict=True)]]
            ends.append([max(max(v) - m, 0.0) for m, v in zip(middle, by_seed, strict=True)])
            at = [place + offset for place in places]
            axes.bar(at, middle, 0.38, yerr=ends, color=COLOURS[name], error_kw={"elinewidth": 0.8}, label=name)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=12))
        axes.set_xticks(list(places), data["layers"])
        axes.set_title(f"step {step}")
        tidy(axes)
    panels[0].set_ylabel(r"$\|\Delta W\|_1 \, / \, \|W\|_1$")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    title = f"Relative update by layer ({data['scale']}): geometric mean of the seeds, and their range"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


RECIPE = Recipe(
    name="percentdelta-figure-1",
    paper="percentdelta",
    shows=("figure 1",),
    title="Relative update by layer at steps 0, 15, 30 and 45: PercentDelta and SGD",
    claims=(EQUAL, APART),
    setup={
        "smoke": "scikit-learn's digits in MNIST's shape, digits-cnn, 6 steps, 2 seeds.",
        "cpu": "MNIST, the paper's network, batch 500, 45 steps; 8 seeds that were not looked at before the thresholds "
        "were set. PercentDelta at lr 0.03, SGD at 0.01, both without momentum and decay. The bars include the rate, "
        "as in the paper. PercentDelta makes the mean of |dW/W| over a tensor's entries equal; the figure shows the "
        "ratio of sums, which follows it roughly.",
        "paper": "The same. The paper names neither rate, which scale the bars of a method alike.",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
