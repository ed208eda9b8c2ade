"""Layer rotation curves of the paper: figures 2b, 4, 5 and 8, and the training accuracies beside them (tables 2 to 4).

The runs are those of `family`; here is which of them each figure shows, and what the paper says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from ..statistics import above, below, difference, equal
from .family import plan, rotation, table
from .judging import Part, at_least, compared, finding, mean, named, noted, on_par
from .panels import rotation_figure, scores_figure
from .trainings import settings
from .variants import ADAM, ADAPTIVE, LAYCA, LAYCA_SGD, LIMITED, SGD, SGD_L2, Variant, layca, slower

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BELOW = "95% interval of the paired difference in test accuracy below 0, on every task"
PAR = "95% interval of the paired difference in test accuracy within ±2 points, on every task"
ALIKE = 0.05  # heights (0 to 1) and spreads that differ by less count as the same
HEIGHT = "final cosine distance to the initial weights, median of the layers: 95% interval of the paired difference"
LIKE_LAYCAS = (
    "final cosine distance to the initial weights, median of the layers, over Layca's, seed by seed: 95% interval "
    "within ±20% of 1"
)
SPREAD = "standard deviation over mean of the layers' final cosine distances: 95% interval of the paired difference"

as_far, alike = partial(equal, margin=0.2), partial(equal, margin=ALIKE)

SETUP = {
    "smoke": "Digits in the shape of CIFAR-10, a CNN of 5 tiny layers, 3 epochs of 2 steps, 2 seeds.",
    "cpu": "The smaller C10-CNN1 of the authors' code on the first 10,000 images of CIFAR-10 (after JPEG), a tenth of "
    "them held out; 5,000 test images; 7 epochs at batch 64 (paper: 50,000 images, 100 epochs, batch 128), bf16; "
    "learning rates searched by factors of 3 on held-out images, with one seed, which is also tested; 3 seeds, 5 of "
    "methods that are said to be on par with another.",
    "paper": "As in the paper and the authors' code: its tasks, epochs, rates and schedules, batch 128; 5 seeds.",
}


def recipe(
    name: str,
    shows: tuple[str, ...],
    title: str,
    variants: Sequence[Variant],
    claims: tuple[Claim, ...],
    judge: Callable[[Data], Sequence[Finding]],
    draw: Callable[[Data], Figure],
    tasks: int = 3,
    curves: bool = True,
    setup: Mapping[str, str] = SETUP,
) -> Recipe:
    """A recipe that trains these variants on the first so many tasks of the paper."""

    def runs(scale: Scale, records: Records) -> list[Request]:
        return plan(scale, records, settings(scale, tasks), variants)

    def measure(scale: Scale, records: Records) -> Data:
        first = {"rotation": rotation} if curves else {}
        return table(scale, records, settings(scale, tasks), variants, first=first)

    return Recipe(name, "rotation", shows, title, claims, setup, runs, measure, judge, draw)


FIRST, LAST = layca(-0.6), layca(0.6)
CONFIGURATIONS = (FIRST, LAST, slower(-5), slower(-4), LAYCA)

CLAIMS_2B = (
    Claim(
        "first", "figure 2b", "Prioritising the first layers (α = -0.6) generalises worse than uniform rotation.",
        BELOW, "C10-CNN1 -5.34, C100-resnet -15.55, tiny-CNN -10.48 points",
    ),
    Claim(
        "last", "figure 2b", "Prioritising the last layers (α = 0.6) generalises worse than uniform rotation.",
        BELOW, "-19.78, -30.18, -22.68 points",
    ),
    Claim("rate-5", "figure 2b", "A low rate, 3^-5, generalises worse than the best one.", BELOW,
          "-7.44, -24.42, -15.21 points"),
    Claim("rate-4", "figure 2b", "A rate of 3^-4, too, generalises worse than the best one.", BELOW,
          "-2.41, -13.03, -10.70 points"),
    Claim(
        "synchronous", "figure 2b", "With α = 0 all layers turn at about the same rate, unlike with α = ±0.6.",
        f"{SPREAD} to either α below 0",
    ),
    Claim("order", "section 4.2", "Prioritising the first layers generalises better than prioritising the last.",
          "95% interval of the paired difference in test accuracy above 0, on every task", "14.4, 14.6, 12.2 points"),
)  # fmt: skip


def judge_2b(data: Data) -> Sequence[Finding]:
    best = LAYCA.key
    parts = [compared(data, variant.key, best, below) for variant in CONFIGURATIONS[:4]]
    spreads = [
        part for key in (FIRST.key, LAST.key) for part in compared(data, best, key, below, "spread", points=False)
    ]
    parts += [spreads, compared(data, FIRST.key, LAST.key, above)]
    return [finding(claim, found) for claim, found in zip(CLAIMS_2B, parts, strict=True)]


CLAIMS_4 = (
    Claim("sgd", "figure 4", "SGD without weight decay generalises worse than Layca.", BELOW,
          "79.68 to 88.45, 45.53 to 59.81, 42.26 to 50.89, 91.70 to 93.40 (text: 92.33), 76.74 to 80.69%"),
    Claim("l2", "figure 4", "With weight decay SGD generalises better.",
          "95% interval of the paired difference in test accuracy above 0, on every task",
          "79.68 to 88.15, 45.53 to 60.11, 42.26 to 50.04, 91.70 to 93.28, 76.74 to 80.45%"),
    Claim("par", "figure 4", "SGD with weight decay is on par with Layca.", PAR,
          "-0.30, +0.30, -0.85, -0.12 (with the text's 92.33%: +0.95), -0.24 points"),
    Claim("high", "figure 4", "Weight decay makes layers turn further.", f"{HEIGHT} to SGD above 0",
          "cosine distances near 1 with it, well below without"),
    Claim("uniform", "figure 4", "Weight decay makes layers turn more alike.", f"{SPREAD} to SGD below 0"),
    Claim("lower", "section 5.1", "SGD's layers end nearer to their initial weights than those under Layca.",
          f"{HEIGHT} of SGD to Layca below 0"),
    Claim("as-high", "section 5.1", "With weight decay SGD's layers turn as far as under Layca.", LIKE_LAYCAS,
          "all layers reach a cosine distance of 1"),
    Claim("as-uniform", "section 5.1", "With weight decay SGD's layers turn as alike as under Layca.",
          f"{SPREAD} to Layca within ±{ALIKE}", "all layers are rotated synchronously"),
)  # fmt: skip


def judge_4(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "sgd", "layca", below),
        compared(data, "sgd-l2", "sgd", above),
        compared(data, "sgd-l2", "layca", on_par),
        compared(data, "sgd-l2", "sgd", above, "height", points=False),
        compared(data, "sgd-l2", "sgd", below, "spread", points=False),
        compared(data, "sgd", "layca", below, "height", points=False),
        compared(data, "sgd-l2", "layca", as_far, "height", points=False, relative=True),
        compared(data, "sgd-l2", "layca", alike, "spread", points=False),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_4, parts, strict=True)]


CLAIMS_5 = (
    Claim("gap", "figure 5", "The adaptive method of each task generalises worse than Layca.", BELOW,
          "84.87 to 88.45, 47.82 to 59.81, 37.72 to 50.89, 91.85 to 93.40 (text: 92.33), 79.36 to 80.69%"),
    Claim("gap-adam", "figure 5", "Adam, too, generalises worse than Layca.", BELOW,
          "47.82 to 59.81% on C100-resnet, where Adam is the method"),
    Claim("uneven", "figure 5", "Under the adaptive method layers turn less alike than under Layca.",
          f"{SPREAD} to Layca above 0"),
    Claim("uneven-adam", "figure 5", "Under Adam, too, layers turn less alike than under Layca.",
          f"{SPREAD} to Layca above 0"),
    Claim("other", "section 5.2", "The rotation under the adaptive method differs from that under SGD.",
          f"median of the layers' final cosine distances, and their standard deviation over their mean: "
          f"97.5% interval of either's paired difference to SGD not 0; does not hold where both are within ±{ALIKE}"),
)  # fmt: skip


def apart(data: Data, a: str, b: str) -> list[Part]:
    """Whether heights or spreads differ on each task: two tests, so each at half the level."""
    parts = []
    for task in data["tasks"]:
        one, other = task["variants"][a], task["variants"][b]
        found, texts = [], []
        for field in ("height", "spread"):
            pairs = list(zip(one[field], other[field], strict=False))
            ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
            found.append(difference(ours, theirs, level=0.975))
            texts.append(f"{field} {mean(ours):.3f} and {mean(theirs):.3f}: {found[-1].text(digits=3)}")
        verdict: Verdict = "holds" if any(one.low > 0 or one.high < 0 for one in found) else "not decided"
        if all(equal(one, ALIKE) == "holds" for one in found):
            verdict = "does not hold"
        text = f"{one['title']}{noted(one)} and {other['title']}{noted(other)}: {', '.join(texts)}"
        parts.append(Part(verdict, named(data, task, text)))
    return parts


def judge_5(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "adaptive", "layca", below),
        compared(data, "adam", "layca", below),
        compared(data, "adaptive", "layca", above, "spread", points=False),
        compared(data, "adam", "layca", above, "spread", points=False),
        apart(data, "adaptive", "sgd"),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_5, parts, strict=True)]


CLAIMS_8 = (
    Claim("par", "figure 8", "LARS at 3^-3, its norm limited, is on par with Layca at that rate.", PAR,
          "nearly identical"),
    Claim("height", "figure 8", "Under it layers turn as far as under Layca.",
          LIKE_LAYCAS, "indistinguishable"),
    Claim("spread", "figure 8", "Under it layers turn as alike as under Layca.",
          f"{SPREAD} within ±{ALIKE}", "indistinguishable"),
)  # fmt: skip


def judge_8(data: Data) -> Sequence[Finding]:
    parts = [
        compared(data, "lars", "layca-sgd", on_par),
        compared(data, "lars", "layca-sgd", as_far, "height", points=False, relative=True),
        compared(data, "lars", "layca-sgd", alike, "spread", points=False),
    ]
    return [finding(claim, found) for claim, found in zip(CLAIMS_8, parts, strict=True)]


def close(key: str, where: str, share: float, paper: str) -> Claim:
    return Claim(
        key, where, f"Training accuracy is at least {share:.0%} in every cell.",
        f"mean over the seeds at least {share:.0%}, on every task", paper,
    )  # fmt: skip


CLAIMS_2 = (close("train", "table 2", 0.97, "97.38 to 100%, at C10-CNN1 99.55 to 100%"),)
CLAIMS_3 = (close("train", "table 3", 0.89, "89.8 to 100%, at C10-CNN1 100%"),)
CLAIMS_4T = (close("train", "table 4", 0.98, "98.72 to 100%, at C10-CNN1 100%"),)
KEYS_2B = [variant.key for variant in CONFIGURATIONS]


def table_recipe(
    number: int, variants: Sequence[Variant], claims: tuple[Claim, ...], tasks: int, share: float
) -> Recipe:
    keys = [variant.key for variant in variants]

    def judge(data: Data) -> Sequence[Finding]:
        return [finding(claims[0], at_least(data, keys, share))]

    def draw(data: Data) -> Figure:
        return scores_figure(data, keys)

    title = f"Training accuracies of figure {dict(zip((2, 3, 4), ('2b', '4', '5'), strict=True))[number]}"
    setup = {**SETUP, "cpu": SETUP["cpu"] + " 7 epochs do not reach 100%: the paper's 80 to 250 do."}
    return recipe(
        f"rotation-table-{number}", (f"table {number}",), title, variants, claims, judge, draw, tasks, curves=False,
        setup=setup,
    )  # fmt: skip


FIGURES = (
    recipe(
        "rotation-figure-2b", ("figure 2b",), "Layer rotation curves under Layca: prioritised, slow, and uniform",
        CONFIGURATIONS, CLAIMS_2B, judge_2b, partial(rotation_figure, columns=KEYS_2B),
    ),
    recipe(
        "rotation-figure-4", ("figure 4",), "Layer rotation curves of SGD without and with weight decay",
        (LAYCA, SGD, SGD_L2), CLAIMS_4, judge_4, partial(rotation_figure, columns=("sgd", "sgd-l2", "layca")), 5,
    ),
    recipe(
        "rotation-figure-5", ("figure 5",), "Layer rotation curves of adaptive methods",
        (LAYCA, SGD, ADAPTIVE, ADAM), CLAIMS_5, judge_5,
        partial(rotation_figure, columns=("adaptive", "adam", "sgd", "layca")), 5,
        setup={**SETUP, "paper": SETUP["paper"] + " Adam by itself on C100-resnet alone."},
    ),
    recipe(
        "rotation-figure-8", ("figure 8",), "Layer rotation curves of LARS with its norm limited",
        (LAYCA_SGD, LIMITED), CLAIMS_8, judge_8,
        partial(rotation_figure, columns=("lars", "layca-sgd"), reference="layca-sgd"),
    ),
)  # fmt: skip
TABLES = (
    table_recipe(2, CONFIGURATIONS, CLAIMS_2, 3, 0.97),
    table_recipe(3, (SGD, SGD_L2), CLAIMS_3, 5, 0.89),
    table_recipe(4, (ADAPTIVE,), CLAIMS_4T, 5, 0.98),
)  # fmt: skip
