"""Figure 2a of the layer rotation paper, and the search for learning rates behind it (appendix B.2).

For every alpha the rate is searched for by factors of 3. "rotation-b2-search" goes on: where the best rates of two
neighbouring alphas differ by a factor of 3, it tries the rate between for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...lab.sweep.cells import key
from ...lab.sweep.rates import Rates
from ...lab.sweep.rates import Settings as Search
from ...monitors.plots.style import METHOD_COLOURS
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import above, below
from .curves import BELOW, SETUP
from .family import LAYCA, LR, layca, measured, plan, searcher, slower, tuned, without_rate
from .judging import Part, compared, finding, named
from .panels import canvas, titled
from .trainings import Setting, power, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHAS = {
    "smoke": (-0.6, 0.0, 0.6),
    "cpu": (-0.6, -0.3, 0.0, 0.3, 0.6),
    "paper": (-0.8, -0.6, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
}
EXPONENTS = {"smoke": (-5, -4, -3), "cpu": (-5, -4, -3, -2, -1), "paper": tuple(range(-7, 3))}
SEVERAL = (-0.6, 0.0, 0.6)  # alphas that claims are tested at: with several seeds


def seeds(scale: Scale, alpha: float) -> int:
    return scale.pick(2, 3, 5) if alpha in SEVERAL else 1


def rate_seeds(scale: Scale, exponent: int) -> int:
    return scale.pick(2, 3, 5) if exponent in (-5, -4) else 1


def plan_2a(scale: Scale, records: Records) -> list[Request]:
    asked: dict[str, Request] = {}
    for alpha in ALPHAS[scale.name]:
        found = plan(scale, records, settings(scale, 3), [layca(alpha)], seeds(scale, alpha))
        asked.update((key(run), run) for run in found)
    for exponent in EXPONENTS[scale.name]:
        found = [
            LAYCA.request(scale, setting, power(exponent), seed)
            for setting in settings(scale, 3)
            for seed in range(rate_seeds(scale, exponent))
        ]
        asked.update((key(run), run) for run in found)
    return list(asked.values())


def measure_2a(scale: Scale, records: Records) -> Data:
    rows = []
    for setting in settings(scale, 3):
        variants = {}
        for alpha in ALPHAS[scale.name]:
            variant = layca(alpha)
            variants[variant.key] = measured(scale, records, setting, variant, seeds=seeds(scale, alpha))
            variants[variant.key]["alpha"] = alpha
        rates = []
        for exponent in EXPONENTS[scale.name]:
            found = [
                LAYCA.request(scale, setting, power(exponent), seed) for seed in range(rate_seeds(scale, exponent))
            ]
            test = [record.result.get("test_score") or 0.0 for record in records.of(found)]
            rates.append({"exponent": exponent, "test": test})
            if len(test) > 1:
                variant = slower(exponent)
                variants[variant.key] = {"title": variant.title, "rate": power(exponent), "test": test}
        rows.append({"key": setting.key, "title": setting.title, "variants": variants, "rates": rates})
    return {"scale": scale.name, "tasks": rows}


CLAIMS_2A = (
    Claim("falls-first", "figure 2a", "Accuracy falls from α = 0 to α = -0.6, each at its best rate.", BELOW,
          "-5.34, -15.55, -10.48 points"),
    Claim("falls-last", "figure 2a", "It falls from α = 0 to α = 0.6.", BELOW, "-19.78, -30.18, -22.68 points"),
    Claim("order", "section 4.2", "Prioritising the last layers (0.6) is worse than prioritising the first (-0.6).",
          BELOW, "-14.4, -14.6, -12.2 points"),
    Claim("rates", "figure 2a", "At α = 0 accuracy rises with the rate: 3^-4 is above 3^-5.",
          "95% interval of the paired difference in test accuracy above 0, on every task", "5.0, 11.4, 4.5 points"),
    Claim("best", "figure 2a", "The best rate is above 3^-4.",
          "95% interval of the paired difference of 3^-4 to the best rate below 0, on every task",
          "-2.41, -13.03, -10.70 points"),
)  # fmt: skip


def judge_2a(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "alpha=-0.6", "layca", below),
        compared(data, "alpha=0.6", "layca", below),
        compared(data, "alpha=0.6", "alpha=-0.6", below),
        compared(data, "rho=3^-4", "rho=3^-5", above),
        compared(data, "rho=3^-4", "layca", below),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_2A, parts, strict=True)]


def draw_2a(data: Data) -> Figure:
    figure, panels = canvas(1, 2, 4.6, 3.6)
    left, right = panels[0]
    for place, task in enumerate(data["tasks"]):
        colour = METHOD_COLOURS[place]
        alphas = sorted((v["alpha"], v["test"]) for v in task["variants"].values() if "alpha" in v)
        scatter(left, alphas, colour, task["title"])
        scatter(right, [(rate["exponent"], rate["test"]) for rate in task["rates"]], colour, task["title"])
    left.set_xlabel("α (first layers < 0 < last layers), each at its best ρ(0)")
    left.set_ylabel("test accuracy, %")
    right.set_xlabel("ρ(0), at α = 0")
    exponents = [rate["exponent"] for rate in data["tasks"][0]["rates"]]
    right.set_xticks(exponents, [f"$3^{{{exponent}}}$" for exponent in exponents])
    if len(data["tasks"]) > 1:
        left.legend(frameon=False, fontsize=9)
    titled(figure, data)
    return figure


def scatter(axes: Axes, points: Sequence[tuple[float, Sequence[float]]], colour: str, label: str) -> None:
    """The mean as a line, every seed as a dot."""
    means = [100 * math.fsum(values) / len(values) for _, values in points]
    axes.plot([x for x, _ in points], means, "-", color=colour, label=label)
    for x, values in points:
        axes.plot([x] * len(values), [100 * value for value in values], "o", color=colour, alpha=0.6, markersize=5)


# The search itself, with its second stage.


def b2(scale: Scale, records: Records, setting: Setting) -> tuple[Rates, list[Request]]:
    """The search of appendix B.2 for one task, over all its alphas."""
    cells = [without_rate(layca(alpha), scale, setting, 0) for alpha in ALPHAS[scale.name]]
    rates = tuple(map(power, scale.pick((-3, -2), (-4, -3, -2), (-4, -3, -2))))
    limits = scale.pick(0, 2, 6)
    return searcher(records, cells, Search(rates=rates, limit=limits, refine=True, along="method"))


def plan_b2(scale: Scale, records: Records) -> list[Request]:
    return [run for setting in settings(scale, 3) for run in b2(scale, records, setting)[1]]


def measure_b2(scale: Scale, records: Records) -> Data:
    rows = []
    for setting in settings(scale, 3):
        made, wanted = b2(scale, records, setting)
        first = {key(run) for alpha in ALPHAS[scale.name] for run in searched(scale, records, setting, alpha)}
        cells: list[dict[str, Any]] = []
        for alpha, (options, best, merit) in zip(ALPHAS[scale.name], made.best(), strict=True):
            own = [run for run in wanted if run["method"] == options["method"]]
            tried = [
                {
                    "exponent": round(math.log(run[LR], 3), 3),
                    "validation": records[run].result.get("validation_score"),
                    "stage": 1 if key(run) in first else 2,
                }
                for run in own
            ]
            cells.append({"alpha": alpha, "best": round(math.log(best, 3), 3), "validation": merit, "tried": tried})
        rows.append({"key": setting.key, "title": setting.title, "cells": cells})
    return {"scale": scale.name, "tasks": rows}


def searched(scale: Scale, records: Records, setting: Setting, alpha: float) -> list[Request]:
    """The runs of the first stage."""
    if scale.name == "smoke" or alpha == 0:
        return [run for run in b2(scale, records, setting)[1] if abs(math.log(run[LR], 3) % 1 - 0.5) > 0.1]
    return tuned(scale, records, setting, layca(alpha))[0]


CLAIMS_B2 = (
    Claim("inside", "appendix B.2", "The search ends where the best rate is between others that it tried.",
          "for every α the best of the first stage is neither its lowest nor its highest rate"),
    Claim("cheap", "appendix B.2", "It takes fewer runs than the grid of 10 rates for each α.",
          "runs over the number of alphas below 10", "the grid was too demanding"),
)  # fmt: skip


def judge_b2(data: Data) -> Sequence[Finding]:
    inside, cheap = [], []
    for task in data["tasks"]:
        ends = []
        for cell in task["cells"]:
            stage = [tried for tried in cell["tried"] if tried["stage"] == 1]
            best = max(stage, key=lambda tried: -1.0 if tried["validation"] is None else tried["validation"])
            exponents = [tried["exponent"] for tried in stage]
            if not min(exponents) < best["exponent"] < max(exponents):
                ends.append(f"{cell['alpha']:g}")
        count, runs = len(task["cells"]), sum(len(cell["tried"]) for cell in task["cells"])
        text = f"{count - len(ends)} of {count} alphas" + (f"; at an end: α = {', '.join(ends)}" if ends else "")
        inside.append(Part("does not hold" if ends else "holds", named(data, task, text)))
        few = runs / count < 10
        cheap.append(Part("holds" if few else "does not hold", named(data, task, f"{runs} runs for {count} alphas")))
    return [finding(claim, parts) for claim, parts in zip(CLAIMS_B2, (inside, cheap), strict=True)]


def draw_b2(data: Data) -> Figure:
    """What was tried for each alpha: filled by accuracy, stage 2 as diamonds, the best ringed."""
    tasks = data["tasks"]
    figure, panels = canvas(1, len(tasks), 5.2, 4.0)
    for axes, task in zip(panels[0], tasks, strict=True):
        scores = [t["validation"] for cell in task["cells"] for t in cell["tried"] if t["validation"] is not None]
        low, high = 100 * min(scores, default=0.0), 100 * max(scores, default=1.0)
        shown = None
        for cell in task["cells"]:
            for stage, marker in ((1, "o"), (2, "D")):
                own = [tried for tried in cell["tried"] if tried["stage"] == stage]
                if own:
                    shown = axes.scatter(
                        [cell["alpha"]] * len(own), [tried["exponent"] for tried in own],
                        c=[100 * (tried["validation"] or 0.0) for tried in own],
                        marker=marker, vmin=low, vmax=high, s=90, edgecolors="none",
                    )  # fmt: skip
            axes.scatter([cell["alpha"]], [cell["best"]], marker="o", s=230, facecolors="none", edgecolors="black")
        axes.set_xlabel("α")
        axes.set_ylabel("log$_3$ ρ(0)")
        axes.set_title(task["title"], fontsize=9)
        if shown is not None:
            figure.colorbar(shown, ax=axes, label="accuracy on held-out images, %")
    titled(figure, data)
    return figure


RECIPES = (
    Recipe(
        "rotation-figure-2a", "rotation", ("figure 2a",), "Test accuracy against α and ρ(0) under Layca",
        CLAIMS_2A,
        {**SETUP, "cpu": SETUP["cpu"] + " One seed where no claim is tested."},
        plan_2a, measure_2a, judge_2a, draw_2a,
    ),
    Recipe(
        "rotation-b2-search", "rotation", ("appendix B.2",), "The search for learning rates, α by α",
        CLAIMS_B2, {**SETUP, "cpu": SETUP["cpu"] + " The search takes one seed."},
        plan_b2, measure_b2, judge_b2, draw_b2,
    ),
)  # fmt: skip
