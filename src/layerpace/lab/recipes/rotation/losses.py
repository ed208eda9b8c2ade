"""Plateaus of the training loss: figures 3 and 9 of the layer rotation paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....monitors.plots.style import METHOD_COLOURS
from ...schedule import Schedule
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Record, Records
from ..statistics import below
from .curves import SETUP
from .family import learning, measured, plan
from .judging import Part, compared, finding, named
from .panels import canvas, learning_curve, titled
from .trainings import CNN1, RESNET, TINY, Setting, settings
from .variants import LAYCA, Variant, layca, slower

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    exponents = scale.pick((-5.0,), (-4.0, -5.0), (-3.2, -3.4, -3.6, -3.8, -4.0))
    return [LAYCA, *(layca(sign * alpha) for alpha in alphas)], [LAYCA, *map(slower, exponents)]


TESTED = (LAYCA, layca(-0.6), layca(0.6), slower(-4), slower(-5))  # the last one where 3^-4 is not there


def seeds(variant: Variant) -> int | None:
    """One for what is only shown."""
    return None if variant.key in [tested.key for tested in TESTED] else 1


def plateaus(figure: int, shows: str) -> Recipe:
    """The recipe of figure 3 or 9."""

    def runs(scale: Scale, records: Records) -> list[Request]:
        found = []
        for setting in tasks_of(figure, scale):
            for panel in shown(figure, scale, setting):
                for variant in panel:
                    found += plan(scale, records, [setting], [variant], seeds(variant))
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
                    seeds(variant),
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

    alphas = "α = 0.6" if figure == 3 else "α = -0.6; on C100-resnet 0.6"
    layers = "last layers" if figure == 3 else "first layers, on C100-resnet the last"
    end = "95% interval of the paired difference in training loss before the rate first drops below 0, on every task"
    claims = (
        Claim("alpha", shows, f"Prioritising layers ({alphas}) lowers the loss's plateau.",
              end, f"the more uniform, the higher; here the {layers}"),
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
                    learning_curve(axes, task["variants"][key], task["epoch"], "train_loss", colour)
                axes.set_xlabel("epoch")
                axes.set_ylabel("training loss")
                axes.legend(frameon=False, fontsize=8)
        titled(made, data)
        return made

    return Recipe(
        f"rotation-figure-{figure}", "rotation", (shows,), "Plateaus of the training loss against α and ρ(0)", claims,
        SETUP, runs, measure, judge, draw,
    )  # fmt: skip


RECIPES = (plateaus(3, "figure 3"), plateaus(9, "figure 9"))
