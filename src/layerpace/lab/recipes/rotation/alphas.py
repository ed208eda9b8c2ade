"""Figure 2a of the layer rotation paper: accuracy against alpha, each at its best rate, and against the rate.

At paper scale the rates are those of the whole search of appendix B.2 (`search`), elsewhere of its first stage, which
the other figures share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....monitors.plots.style import METHOD_COLOURS
from ...sweep.cells import key
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import above, below
from .curves import BELOW, SETUP
from .family import LR, measured_at, runs, tuned
from .judging import Part, compared, finding, named
from .panels import canvas, titled
from .search import ALPHAS, b2
from .trainings import Setting, power, settings
from .variants import LAYCA, layca, slower

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPONENTS = {"smoke": (-5, -4, -3), "cpu": (-5, -4, -3, -2, -1), "paper": tuple(range(-7, 3))}
SEVERAL = (-0.6, 0.0, 0.6)  # alphas that claims are tested at: with several seeds


def seeds(alpha: float) -> int | None:
    """One for what is only shown."""
    return None if alpha in SEVERAL else 1


def rate_seeds(scale: Scale, exponent: int) -> int:
    return scale.pick(2, 3, 5) if exponent in (-5, -4) else 1


Chosen = tuple[list[Request], float | None, dict[float, float | None]]


def chosen(scale: Scale, records: Records, setting: Setting) -> dict[float, Chosen]:
    """Of each alpha the runs of its search, its best rate (None: not known yet), and the validation score at each."""
    alphas = ALPHAS[scale.name]
    if scale.name != "paper":
        return {alpha: tuned(scale, records, setting, layca(alpha)) for alpha in alphas}
    made, wanted = b2(scale, records, setting)
    if not records.have(wanted):
        return dict.fromkeys(alphas, (wanted, None, {}))
    found: dict[float, Chosen] = {}
    for alpha, (options, best, _) in zip(alphas, made.best(), strict=True):
        own = [run for run in wanted if run["method"] == options["method"]]
        found[alpha] = own, best, {run[LR]: records[run].result.get("validation_score") for run in own}
    return found


def plan_2a(scale: Scale, records: Records) -> list[Request]:
    asked: dict[str, Request] = {}
    for setting in settings(scale, 3):
        for alpha, (wanted, best, _) in chosen(scale, records, setting).items():
            if best is not None:
                wanted = wanted + runs(scale, setting, layca(alpha), best, seeds(alpha))
            asked.update((key(run), run) for run in wanted)
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
        for alpha, (_, best, scores) in chosen(scale, records, setting).items():
            variant = layca(alpha)
            if best is None:
                raise ValueError(f"{setting.key}, {variant.key}: its search is not over")
            found = measured_at(scale, records, setting, variant, best, scores, seeds=seeds(alpha))
            variants[variant.key] = {**found, "alpha": alpha}
        rates = []
        for exponent in EXPONENTS[scale.name]:
            variant = slower(exponent)
            at = measured_at(scale, records, setting, variant, power(exponent), {}, seeds=rate_seeds(scale, exponent))
            rates.append({"exponent": exponent, "test": at["test"]})
            if len(at["test"]) > 1:
                variants[variant.key] = at
        rows.append({"key": setting.key, "title": setting.title, "variants": variants, "rates": rates})
    return {"scale": scale.name, "tasks": rows}


CLAIMS_2A = (
    Claim("falls-first", "figure 2a", "Accuracy falls from α = 0 to α = -0.6, each at its best rate.", BELOW,
          "-5.34, -15.55, -10.48 points"),
    Claim("falls-last", "figure 2a", "Accuracy falls from α = 0 to α = 0.6, each at its best rate.", BELOW,
          "-19.78, -30.18, -22.68 points"),
    Claim("order", "section 4.2", "Prioritising the last layers (0.6) is worse than prioritising the first (-0.6).",
          BELOW, "-14.4, -14.6, -12.2 points"),
    Claim("rates", "figure 2a", "At α = 0 accuracy rises with the rate: 3^-4 is above 3^-5.",
          "95% interval of the paired difference in test accuracy above 0, on every task", "5.0, 11.4, 4.5 points"),
    Claim("best", "figure 2a", "The best rate is above 3^-4.",
          "the rate chosen for α = 0 is above 3^-4, and the 95% interval of the paired difference of 3^-4 to it is "
          "below 0, on every task",
          "-2.41, -13.03, -10.70 points"),
)  # fmt: skip


def judge_2a(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "alpha=-0.6", "layca", below),
        compared(data, "alpha=0.6", "layca", below),
        compared(data, "alpha=0.6", "alpha=-0.6", below),
        compared(data, "rho=3^-4", "rho=3^-5", above),
        best_rate(data),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_2A, parts, strict=True)]


def best_rate(data: Data) -> list[Part]:
    """Where the best rate of α = 0 is, and how much worse 3^-4 is."""
    found = []
    for task in data["tasks"]:
        (part,) = compared({**data, "tasks": [task]}, "rho=3^-4", "layca", below)
        exponent = math.log(task["variants"]["layca"]["rate"], 3)
        higher = exponent > -4 + 1e-6
        text = f"best rate 3^{exponent:.3g}; {part.text}"
        found.append(Part(part.verdict if higher else "does not hold", named(data, task, text)))
    return found


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


RECIPES = (
    Recipe(
        "rotation-figure-2a", "rotation", ("figure 2a",), "Test accuracy against α and ρ(0) under Layca",
        CLAIMS_2A,
        {
            **SETUP,
            "cpu": SETUP["cpu"] + " One seed where no claim is tested.",
            "paper": SETUP["paper"] + " Each α at its best rate of the search of appendix B.2, half steps included.",
        },
        plan_2a, measure_2a, judge_2a, draw_2a,
    ),
)  # fmt: skip
