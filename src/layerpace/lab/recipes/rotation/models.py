"""Table 1 and figure 12 of the layer rotation paper, which need no training: the networks, and alpha's multipliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ....layers import multiplier
from ....monitors.plots.style import METHOD_COLOURS, new_figure
from ...models import MODELS
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from .panels import canvas
from .trainings import PAPER, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_TRAINING = dict.fromkeys(("smoke", "cpu", "paper"), "The networks as they are built, without training.")


def none(scale: Scale, records: Records) -> Sequence[Request]:
    return ()


# Table 1: what counts as a layer of a network's name. Wide ResNets count the convolutions of shortcuts and not the
# linear layer, ResNets the other way round.
NAMED = {"C10-CNN1": ("depth", 25), "C100-resnet": ("depth", 32), "tiny-CNN": ("depth", 11), "C100-WRN": ("convs", 28)}
SHORTCUT = 1  # a kernel's height and width there

CLAIMS_1 = (
    Claim("depth", "table 1", "The networks are as deep as their names say.",
          "kernels of the forward path (of the Wide ResNet: all convolutions): exactly as many",
          "C10-CNN1 25, ResNet-32, tiny-CNN 11, Wide ResNet 28-10"),
    Claim("kernels", "authors' code", "Only kernels are trained: no biases, no scale and shift of BatchNorm.",
          "every parameter of the five networks has two or more dimensions"),
)  # fmt: skip


def measure_1(scale: Scale, records: Records) -> Data:
    rows = []
    for setting in (*PAPER, SMALL):
        described = setting.model
        with torch.device("meta"):  # shapes alone
            model = MODELS[described["name"]](described["shape"], described["classes"], **described["options"])
        sizes = [list(parameter.shape) for parameter in model.parameters()]
        kernels = [shape for shape in sizes if len(shape) > 1]
        convs = [shape for shape in kernels if len(shape) == 4]
        shortcuts = [shape for shape in convs if shape[-1] == SHORTCUT]
        rows.append(
            {
                "key": setting.key, "architecture": setting.architecture, "data": setting.task["data"],
                "augmented": bool(setting.task.get("augment")), "convs": len(convs), "kernels": len(kernels),
                "depth": len(kernels) - len(shortcuts), "vectors": len(sizes) - len(kernels),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            }
        )  # fmt: skip
    return {"scale": scale.name, "rows": rows}


def judge_1(data: Data) -> Sequence[Finding]:
    rows = {row["key"]: row for row in data["rows"]}
    right = all(rows[key][what] == number for key, (what, number) in NAMED.items())
    bare = all(row["vectors"] == 0 for row in data["rows"])
    depths = ", ".join(f"{key} {rows[key][what]}" for key, (what, _) in NAMED.items())
    vectors = ", ".join(f"{key} {row['vectors']}" for key, row in rows.items())
    return [
        Finding(CLAIMS_1[0], verdict(right), depths),
        Finding(CLAIMS_1[1], verdict(bare), f"other parameters: {vectors}"),
    ]


def verdict(right: bool) -> Verdict:
    return "holds" if right else "does not hold"


def draw_1(data: Data) -> Figure:
    head = ("Name", "Architecture", "Data", "Layers deep", "Convolutions", "Parameters")
    cells = [
        (
            row["key"], row["architecture"], row["data"] + " + augmentation" * row["augmented"], str(row["depth"]),
            str(row["convs"]), f"{row['parameters']:,}",
        )
        for row in data["rows"]
    ]  # fmt: skip
    figure = new_figure(11.0, 2.8)
    axes = figure.add_subplot()
    axes.set_axis_off()
    widths = (0.13, 0.29, 0.22, 0.1, 0.1, 0.16)
    table = axes.table(cells, colLabels=head, colWidths=widths, cellLoc="left", colLoc="left", loc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.5)
    for (row, _), cell in table.get_celld().items():
        cell.visible_edges = "B"
        cell.set_edgecolor("0.8")
        if row == 0:
            cell.set_text_props(weight="bold")
    return figure


# Figure 12

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
LAYERS = 25  # those of C10-CNN1

CLAIMS_12 = (
    Claim("negative", "figure 12", "A negative α lowers the rate of layer l from 1 to (1 - |α|)^5, the last layer's.",
          "largest error of the multipliers to equation 1, computed apart: below 1e-12",
          "(1 + α)^(5 l/(L - 1))"),
    Claim("positive", "figure 12", "A positive α is its mirror image, with the last layer at 1.",
          "largest error to the multipliers of -α in reverse order: below 1e-12", "(1 - α)^(5 (L - 1 - l)/(L - 1))"),
)  # fmt: skip


def measure_12(scale: Scale, records: Records) -> Data:
    made = {f"{a:g}": [round(multiplier(place, LAYERS, a), 14) for place in range(LAYERS)] for a in signed()}
    return {"scale": scale.name, "layers": LAYERS, "multipliers": made}


def signed() -> list[float]:
    return [*(-alpha for alpha in reversed(ALPHAS[1:])), *ALPHAS]


def judge_12(data: Data) -> Sequence[Finding]:
    made, last = data["multipliers"], data["layers"] - 1
    off, mirrored = 0.0, 0.0
    for alpha in ALPHAS:
        below, above = made[f"{-alpha:g}" if alpha else "0"], made[f"{alpha:g}"]
        equation = [(1 - alpha) ** (5 * place / last) for place in range(last + 1)]
        off = max(off, *(abs(a - b) for a, b in zip(below, equation, strict=True)))
        mirrored = max(mirrored, *(abs(a - b) for a, b in zip(above, reversed(below), strict=True)))
    return [
        Finding(CLAIMS_12[0], verdict(off < 1e-12), f"largest error {off:.1e}"),
        Finding(CLAIMS_12[1], verdict(mirrored < 1e-12), f"largest error {mirrored:.1e}"),
    ]


def draw_12(data: Data) -> Figure:
    figure, panels = canvas(1, 2, 4.2, 3.0)
    for axes, sign, title in zip(panels[0], (-1, 1), ("Negative α", "Positive α"), strict=True):
        for alpha, colour in zip(ALPHAS, METHOD_COLOURS, strict=True):
            values = data["multipliers"][f"{sign * alpha:g}" if alpha else "0"]
            axes.plot(
                [place / data["layers"] for place in range(len(values))], values, color=colour, label=f"{alpha:g}"
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("l / L")
        axes.set_ylabel("multiplier")
    panels[0][1].legend(title="|α|", frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9)
    return figure


TABLES = (
    Recipe(
        "rotation-table-1", "rotation", ("table 1",), "The tasks: networks as built", CLAIMS_1, NO_TRAINING, none,
        measure_1, judge_1, draw_1,
    ),
)  # fmt: skip
FIGURES = (
    Recipe(
        "rotation-figure-12", "rotation", ("figure 12",), "The multipliers that α gives the layers", CLAIMS_12,
        dict.fromkeys(NO_TRAINING, "Equation 1 for 25 layers; no training."), none, measure_12, judge_12, draw_12,
    ),
)  # fmt: skip
