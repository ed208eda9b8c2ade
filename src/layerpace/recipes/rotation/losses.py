"""Learning curves of the layer rotation paper: plateaus of the loss (figures 3 and 9), and methods that coincide under
Layca (figure 6, and the table of Layca on five optimizers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...lab.schedule import Schedule
from ...monitors.plots.style import METHOD_COLOURS
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Record, Records
from ..statistics import below, equal, interval
from .curves import PAR, SETUP
from .family import (
    LAYCA,
    LAYCA_ADAGRAD,
    LAYCA_ADAM,
    LAYCA_AMOM,
    LAYCA_RMSPROP,
    LAYCA_SGD,
    Variant,
    layca,
    learning,
    measured,
    plan,
    slower,
)
from .judging import Part, compared, finding, mean, named, on_par
from .panels import canvas, scores_figure, titled
from .trainings import CNN1, RESNET, TINY, Setting, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figures 3 and 9


def plateau(record: Record) -> float:
    """Training loss at the last evaluation before the learning rate first drops."""
    drop = (*Schedule.of(record.request["schedule"]).shares, 1.0)[0] * record.request["steps"]
    losses = [row["train_loss"] for row in record.curve if row["step"] <= drop and row["train_loss"] is not None]
    return float(losses[-1]) if losses else float("nan")


def tasks_of(figure: int, scale: Scale) -> tuple[Setting, ...]:
    """Figure 3 shows tiny-CNN, figure 9 the two others."""
    return settings(scale) if scale.name != "paper" else {3: (TINY,), 9: (CNN1, RESNET)}[figure]


def shown(figure: int, scale: Scale, setting: Setting) -> tuple[list[Variant], list[Variant]]:
    """What the panel of alphas and that of rates compare."""
    sign = -1 if figure == 9 and setting is not RESNET else 1
    alphas = scale.pick((0.6,), (0.3, 0.6), (0.1, 0.2, 0.3, 0.4, 0.6))
    exponents = scale.pick((-5,), (-4, -5), (-4, -5))
    return [LAYCA, *(layca(sign * alpha) for alpha in alphas)], [LAYCA, *map(slower, exponents)]


def seeds(scale: Scale, variant: Variant) -> int:
    """One for what is only shown."""
    return 1 if scale.name != "smoke" and variant.key in ("alpha=0.3", "alpha=-0.3") else scale.pick(2, 3, 5)


def plateaus(figure: int, shows: str) -> Recipe:
    """The recipe of figure 3 or 9."""

    def runs(scale: Scale, records: Records) -> list[Request]:
        found = []
        for setting in tasks_of(figure, scale):
            for panel in shown(figure, scale, setting):
                for variant in panel:
                    found += plan(scale, records, [setting], [variant], seeds(scale, variant))
        return found

    def measure(scale: Scale, records: Records) -> Data:
        rows = []
        for setting in tasks_of(figure, scale):
            panels = shown(figure, scale, setting)
            variants = {
                variant.key: measured(
                    scale,
                    records,
                    setting,
                    variant,
                    {"learning": learning},
                    {"plateau": plateau},
                    seeds(scale, variant),
                )
                for panel in panels
                for variant in panel
            }
            keys = [[variant.key for variant in panel] for panel in panels]
            rows.append(
                {
                    "key": setting.key, "title": setting.title, "epoch": setting.epoch(), "panels": keys,
                    "variants": variants,
                }
            )  # fmt: skip
        return {"scale": scale.name, "tasks": rows}

    layers = "last" if figure == 3 else "first"
    end = "95% interval of the paired difference in training loss before the rate first drops below 0, on every task"
    claims = (
        Claim("alpha", shows, f"Prioritising layers (α = {'' if figure == 3 else '-'}0.6) lowers the loss's plateau.",
              end, f"the more uniform, the higher; here the {layers} layers"),
        Claim("rate", shows, "A lower rate, 3^-4, lowers it, too.", end, "the higher the rate, the higher"),
    )  # fmt: skip

    def judge(data: Data) -> Sequence[Finding]:
        found: list[Part] = []
        for task in data["tasks"]:
            last = task["panels"][0][-1]
            alone = {**data, "tasks": [task]}
            parts = compared(alone, last, LAYCA.key, below, "plateau", points=False)
            found += [Part(part.verdict, named(data, task, part.text)) for part in parts]
        rates = compared(data, "rho=3^-4", LAYCA.key, below, "plateau", points=False)
        if not rates:
            rates = compared(data, "rho=3^-5", LAYCA.key, below, "plateau", points=False)
        return [finding(claims[0], found), finding(claims[1], rates)]

    def draw(data: Data) -> Figure:
        made, panels = canvas(len(data["tasks"]), 2, 4.6, 3.0)
        for row, task in zip(panels, data["tasks"], strict=True):
            for axes, keys in zip(row, task["panels"], strict=True):
                for colour, key in zip(METHOD_COLOURS, keys, strict=False):
                    curve(axes, task["variants"][key], task["epoch"], "train_loss", colour)
                axes.set_xlabel("epoch")
                axes.set_ylabel("training loss")
                axes.legend(frameon=False, fontsize=8)
        titled(made, data)
        return made

    return Recipe(
        f"rotation-figure-{figure}", "rotation", (shows,), "Plateaus of the training loss against α and ρ(0)", claims,
        SETUP, runs, measure, judge, draw,
    )  # fmt: skip


def curve(axes: Axes, variant: Data, epoch: int, what: str, colour: str, style: str = "-") -> None:
    shown = variant["learning"]
    scale = 100 if what == "test_score" else 1
    points = [(s / epoch, scale * y) for s, y in zip(shown["step"], shown[what], strict=True) if y is not None]
    axes.plot(
        [x for x, _ in points], [y for _, y in points], style, color=colour, label=variant["title"], linewidth=1.5
    )


# Figure 6

FIGURE_6 = {variant.key: variant for variant in (LAYCA_SGD, LAYCA_RMSPROP, LAYCA_ADAGRAD, LAYCA_AMOM, LAYCA_ADAM)}
BY_DIRECTION = {
    "sgd": LAYCA_SGD,
    "rmsprop": LAYCA_RMSPROP,
    "adagrad": LAYCA_ADAGRAD,
    "ema_momentum": LAYCA_AMOM,
    "adam": LAYCA_ADAM,
}
COINCIDE = 0.03


def pairs(scale: Scale, setting: Setting) -> list[tuple[Variant, Variant]]:
    """(adaptive, its non-adaptive equivalent): the paper's one for each task; elsewhere two on the one task."""
    if scale.name == "paper":
        adaptive, plain = setting.pair
        return [(BY_DIRECTION[adaptive], BY_DIRECTION[plain])]
    return [(LAYCA_RMSPROP, LAYCA_SGD), (LAYCA_ADAM, LAYCA_AMOM)]


def plan_6(scale: Scale, records: Records) -> list[Request]:
    return [
        run
        for setting in settings(scale)
        for pair in pairs(scale, setting)
        for run in plan(scale, records, [setting], pair)
    ]


def second_half(record: Record) -> list[float]:
    """Test accuracies at the evaluations of the second half."""
    half = record.request["steps"] / 2
    return [float(f"{row['test_score']:.4g}") for row in record.curve if row["step"] >= half]


def measure_6(scale: Scale, records: Records) -> Data:
    rows = []
    for setting in settings(scale):
        found = pairs(scale, setting)
        variants = {
            variant.key: measured(scale, records, setting, variant, {"learning": learning}, {"late": second_half})
            for pair in found
            for variant in pair
        }
        rows.append(
            {
                "key": setting.key, "title": setting.title, "epoch": setting.epoch(), "variants": variants,
                "pairs": [[adaptive.key, plain.key] for adaptive, plain in found],
            }
        )  # fmt: skip
    return {"scale": scale.name, "tasks": rows}


CLAIMS_6 = (
    Claim("end", "figure 6", "Under Layca an adaptive method ends with the accuracy of its non-adaptive equivalent.",
          PAR.replace("every task", "every task and pair"), "indistinguishable"),
    Claim("curves", "figure 6", "So do their test curves run: they coincide.",
          "mean absolute difference in test accuracy over the evaluations of the second half: 95% interval within "
          "3 points, on every task and pair", "indistinguishable"),
)  # fmt: skip


def judge_6(data: Data) -> Sequence[Finding]:
    ends, curves = [], []
    for task in data["tasks"]:
        for adaptive, plain in task["pairs"]:
            parts = compared({**data, "tasks": [task]}, adaptive, plain, on_par)
            ends += [Part(part.verdict, named(data, task, part.text)) for part in parts]
            one, other = task["variants"][adaptive], task["variants"][plain]
            apart = [
                mean([abs(x - y) for x, y in zip(a, b, strict=True)])
                for a, b in zip(one["late"], other["late"], strict=True)
            ]
            found = interval(apart)
            text = f"{one['title']} and {other['title']}: {found.text(100, ' points apart')}"
            curves.append(Part(equal(found, COINCIDE), named(data, task, text)))
    return [finding(claim, parts) for claim, parts in zip(CLAIMS_6, (ends, curves), strict=True)]


def draw_6(data: Data) -> Figure:
    """Test accuracy above, training loss below; a column a pair."""
    columns = [(task, pair) for task in data["tasks"] for pair in task["pairs"]]
    figure, panels = canvas(2, len(columns), 3.6, 2.6)
    for place, (task, pair) in enumerate(columns):
        for row, (what, name) in enumerate((("test_score", "test accuracy, %"), ("train_loss", "training loss"))):
            axes = panels[row][place]
            for key, colour, style in zip(pair, METHOD_COLOURS, ("-", "--"), strict=False):
                curve(axes, task["variants"][key], task["epoch"], what, colour, style)
            if place == 0:
                axes.set_ylabel(name)
            axes.set_xlabel("epoch")
            axes.legend(frameon=False, fontsize=8)
    titled(figure, data)
    return figure


# Layca on five optimizers

OPTIMIZERS = tuple(FIGURE_6.values())


def plan_five(scale: Scale, records: Records) -> list[Request]:
    return plan(scale, records, settings(scale, 1), OPTIMIZERS)


def measure_five(scale: Scale, records: Records) -> Data:
    rows = [
        {
            "key": setting.key, "title": setting.title, "epoch": setting.epoch(),
            "variants": {variant.key: measured(scale, records, setting, variant) for variant in OPTIMIZERS},
        }
        for setting in settings(scale, 1)
    ]  # fmt: skip
    return {"scale": scale.name, "tasks": rows}


CLAIMS_FIVE = tuple(
    Claim(variant.key, "section 5.2", f"{variant.title} is on par with Layca on SGD.", PAR, paper)
    for variant, paper in (
        (LAYCA_RMSPROP, "88.25 to 88.45% on C10-CNN1"),
        (LAYCA_ADAGRAD, "50.55 to 50.89% on tiny-CNN"),
        (LAYCA_AMOM, ""),
        (LAYCA_ADAM, "58.16 to 59.81% on C100-resnet, 79.64 to 80.69% on C100-WRN"),
    )
)


def judge_five(data: Data) -> Sequence[Finding]:
    return [finding(claim, compared(data, claim.key, LAYCA_SGD.key, on_par)) for claim in CLAIMS_FIVE]


def draw_five(data: Data) -> Figure:
    return scores_figure(data, [variant.key for variant in OPTIMIZERS])


NOTE = " With momentum (SGD_AMom, Adam) ρ(0) is 3^-4, else 3^-3; the paper has 3^-5 and 3^-3."
RECIPES = (
    plateaus(3, "figure 3"),
    Recipe(
        "rotation-figure-6", "rotation", ("figure 6",),
        "Adaptive methods and their non-adaptive equivalents, both under Layca", CLAIMS_6,
        {**SETUP, "cpu": SETUP["cpu"] + NOTE}, plan_6, measure_6, judge_6, draw_6,
    ),
    plateaus(9, "figure 9"),
    Recipe(
        "rotation-layca-on-optimizers", "rotation", ("section 5.2",),
        "Layca on SGD, RMSProp, AdaGrad, SGD_AMom and Adam", CLAIMS_FIVE, {**SETUP, "cpu": SETUP["cpu"] + NOTE},
        plan_five, measure_five, judge_five, draw_five,
    ),
)  # fmt: skip
