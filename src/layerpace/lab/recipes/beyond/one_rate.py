"""Recipe one-rate: does one learning rate serve all widths, depths and tasks?

For each method and cell (a width, a depth, a task) a whole grid of rates is run. Held-out examples choose rates, test
scores measure: how far a cell's accuracy falls from that at the cell's own best rate, when the method keeps one rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..recipe import Claim, Data, Finding, Recipe
from ..statistics import above, below, difference
from .one_rate_cells import EXTRA, LAYERWISE
from .one_rate_pictures import draw
from .one_rate_runs import by_seed, counted, kept_scores, losses, measure, runs

PLAIN = ("SGD", "AdamW")
PAIRED = "means over the cells, paired by seed: 95% interval"
WHERE = "one rate for all"

CLAIMS = (
    *(
        Claim(
            f"all-{other.lower()}", WHERE,
            f"Layer-wise methods lose less accuracy than {other} does when a method keeps one rate.",
            f"loss of the five's mean - loss of {other}, at the rate that is best on average, {PAIRED} below 0",
        )
        for other in PLAIN
    ),
    *(
        Claim(
            f"{name.lower()}-{other.lower()}", WHERE, f"{name} loses less than {other}.",
            f"loss of {name} - loss of {other}, at the rate that is best on average, {PAIRED} below 0",
        )
        for name in LAYERWISE
        for other in PLAIN
    ),
    *(
        Claim(
            f"base-{other.lower()}", WHERE,
            f"Layer-wise methods lose less than {other} does when the rate of the base cell is kept.",
            f"loss of the five's mean - loss of {other}, at the base cell's best rate, over the others, {PAIRED} "
            "below 0",
        )
        for other in PLAIN
    ),
    Claim(
        "accuracy", WHERE, "With one rate each, layer-wise methods are more accurate than AdamW.",
        f"accuracy of the five's mean - AdamW's, at the rate that is best on average, {PAIRED} above 0",
    ),
)  # fmt: skip


def ends(data: Data, names: Sequence[str]) -> str:
    """Which of these methods have cells whose own best rate is at an end of the grid: their loss may be larger."""
    cells = {name: counted(data, [cell in data["methods"][name]["at_end"] for cell in data["cells"]]) for name in names}
    found = [f"{name} {sum(at):.0f}" for name, at in cells.items() if any(at)]
    return f"; cells best at an end of the grid: {', '.join(found)}" if found else ""


def judge(data: Data) -> list[Finding]:
    there = [name for name in LAYERWISE if name in data["methods"]]
    titles = {name.lower(): name for name in (*LAYERWISE, *PLAIN)}
    findings = []
    for claim in CLAIMS:
        if claim.key == "accuracy":
            kept_at = {name: by_seed(counted(data, kept_scores(data, name))) for name in (*there, "AdamW")}
            gain = difference(by_seed([kept_at[name] for name in there]), kept_at["AdamW"])
            findings.append(Finding(claim, above(gain), f"{gain.text(100)} points{ends(data, (*there, 'AdamW'))}"))
            continue
        first, other = claim.key.split("-")
        kept = "base" if first == "base" else "average"
        some = there if first in ("all", "base") else [titles[first]]
        if not set(some) <= set(there):
            findings.append(Finding(claim, "not decided", "not run at this scale"))
            continue
        lost = {name: by_seed(counted(data, losses(data, name, kept), kept)) for name in (*some, titles[other])}
        ours, theirs = by_seed([lost[name] for name in some]), lost[titles[other]]
        found = difference(ours, theirs)
        means = f"{100 * statistics.fmean(ours):.2f} against {100 * statistics.fmean(theirs):.2f}"
        text = f"{means} points: {found.text(100)}{ends(data, (*some, titles[other]))}"
        findings.append(Finding(claim, below(found), text))
    return findings


RECIPES = (
    Recipe(
        name="one-rate",
        paper="beyond",
        shows=("one learning rate for all",),
        title="Does one learning rate serve all?",
        claims=CLAIMS,
        setup={
            "smoke": "Digits and spirals, 5 cells, 4 methods, 2 rates and 1 more at an end, 1 seed, 6 steps.",
            "cpu": "Base: 3000 MNIST images, 4 hidden layers of 64 units, 250 steps of 64. Widths 16 to 256, depths 4 "
            "to 32; further tasks: spirals, digits-mlp (one hidden layer of 784 with BatchNorm), percentdelta-cnn (60 "
            "steps of 32, bf16) and c10-cnn1-small on 3000 images (80 steps of 32, bf16). 7 rates in factors of 3 "
            "(SGD: 8), up to 2 more on a side where a cell's best is the last; 3 seeds, cosine schedule, a fifth held "
            "out for choosing rates. SGD and LARS have momentum 0.9, other options are the lab's defaults. A run that "
            f"diverges counts as guessing. {EXTRA}, which is badly scaled on purpose, is shown and in no claim.",
            "paper": "All data, base width 256, 2000 steps, 5 seeds.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
    ),
)
