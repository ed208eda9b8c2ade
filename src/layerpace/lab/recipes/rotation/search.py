"""The search for learning rates of the layer rotation paper (appendix B.2), over several alphas.

For every alpha the rate is searched for by factors of 3. Then, where the best rates of two neighbouring alphas differ
by a factor of 3, the rate between is tried for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...sweep.rates import Rates, exact
from ...sweep.rates import Settings as Search
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from .curves import SETUP
from .family import LR, searcher, without_rate
from .judging import Part, finding, named
from .panels import canvas, titled
from .trainings import Setting, power, settings
from .variants import LIMITS, layca

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = {
    "smoke": (-0.6, 0.0, 0.6),
    "cpu": (-0.6, -0.3, 0.0, 0.3, 0.6),
    "paper": (-0.8, -0.6, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
}
GRID = 10  # rates of the grid that the search replaces


def b2(scale: Scale, records: Records, setting: Setting) -> tuple[Rates, list[Request]]:
    """The search of appendix B.2 for one task, over all its alphas."""
    cells = [without_rate(layca(alpha), scale, setting, 0) for alpha in ALPHAS[scale.name]]
    rates = tuple(map(power, scale.pick((-3, -2), (-4, -3, -2), (-4, -3, -2))))
    return searcher(records, cells, Search(rates=rates, limit=scale.pick(*LIMITS), refine=True, along="method"))


def plan_b2(scale: Scale, records: Records) -> list[Request]:
    return [run for setting in settings(scale, 3) for run in b2(scale, records, setting)[1]]


def measure_b2(scale: Scale, records: Records) -> Data:
    rows = []
    for setting in settings(scale, 3):
        made, wanted = b2(scale, records, setting)
        cells: list[Data] = []
        for alpha, cell, (options, best, merit) in zip(ALPHAS[scale.name], made.cells, made.best(), strict=True):
            first = [exact(rate) for rate in made.explore(cell)[0]]
            tried = [
                {
                    "exponent": round(math.log(run[LR], 3), 3),
                    "validation": records[run].result.get("validation_score"),
                    "stage": 1 if run[LR] in first else 2,
                }
                for run in wanted
                if run["method"] == options["method"]
            ]
            cells.append({"alpha": alpha, "best": round(math.log(best, 3), 3), "validation": merit, "tried": tried})
        most = len(made.settings.rates) + made.settings.limit + 2  # a half step to either neighbour
        rows.append({"key": setting.key, "title": setting.title, "cells": cells, "most": most})
    return {"scale": scale.name, "tasks": rows}


CLAIMS_B2 = (
    Claim("inside", "appendix B.2", "The search ends where the best rate is between others that it tried.",
          "for every α the best of the first stage is neither its lowest nor its highest rate"),
    Claim("cheap", "appendix B.2", "It takes fewer runs than the grid of 10 rates for each α.",
          "runs over the number of alphas below 10, where the search may take as many", "the grid was too demanding"),
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
        verdict: Verdict = "holds" if runs / count < GRID else "does not hold"
        text = f"{runs} runs for {count} alphas"
        if task["most"] < GRID:
            verdict, text = "not decided", f"{text}; capped at {task['most']} at this scale"
        cheap.append(Part(verdict, named(data, task, text)))
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
        "rotation-b2-search", "rotation", ("appendix B.2",), "The search for learning rates, α by α",
        CLAIMS_B2, {**SETUP, "cpu": SETUP["cpu"] + " The search takes one seed."},
        plan_b2, measure_b2, judge_b2, draw_b2,
    ),
)  # fmt: skip
