"""The layer rotation paper's methods side by side on its first task, C10-CNN1: what a single GPU can train.

Its runs are those of figures 4, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import below
from .curves import BELOW, PAR, SETUP
from .family import plan, rotation, table
from .judging import compared, finding, on_par
from .panels import rotation_figure
from .trainings import settings
from .variants import ADAPTIVE, LAYCA, LAYCA_RMSPROP, SGD, SGD_L2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS = (LAYCA, SGD, SGD_L2, ADAPTIVE, LAYCA_RMSPROP)
CLAIMS = (
    Claim("sgd", "figure 4", "SGD generalises worse than Layca.", BELOW, "79.68 and 88.45%"),
    Claim("l2", "figure 4", "SGD with weight decay is on par with Layca.", PAR, "88.15 and 88.45%"),
    Claim("adaptive", "figure 5", "RMSProp generalises worse than Layca.", BELOW, "84.87 and 88.45%"),
    Claim("both", "figure 6", "RMSProp under Layca is on par with Layca.", PAR, "88.25 and 88.45%"),
)


def runs(scale: Scale, records: Records) -> list[Request]:
    return plan(scale, records, settings(scale, 1), VARIANTS)


def measure(scale: Scale, records: Records) -> Data:
    return table(scale, records, settings(scale, 1), VARIANTS, first={"rotation": rotation})


def judge(data: Data) -> Sequence[Finding]:
    tests = (("sgd", below), ("sgd-l2", on_par), ("adaptive", below), ("layca-rmsprop", on_par))
    parts = [compared(data, key, "layca", test) for key, test in tests]
    return [finding(claim, found) for claim, found in zip(CLAIMS, parts, strict=True)]


def draw(data: Data) -> Figure:
    return rotation_figure(data, [variant.key for variant in VARIANTS])


RECIPES = (
    Recipe(
        "rotation-c10-cnn1",
        "rotation",
        ("figures 4 to 6, C10-CNN1",),
        "Layca, SGD and RMSProp on C10-CNN1",
        CLAIMS,
        {**SETUP, "paper": "C10-CNN1 with the authors' settings, 100 epochs; 5 seeds."},
        runs,
        measure,
        judge,
        draw,
    ),
)
