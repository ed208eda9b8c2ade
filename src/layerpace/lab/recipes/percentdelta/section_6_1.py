"""The three settings of section 6.1, where the paper expects PercentDelta and LARS to be useful: the recipes."""

from __future__ import annotations

from functools import partial

from ..recipe import Claim, Recipe
from . import section_6_1_runs as compare
from .section_6_1_runs import ALIKE, SPECS, Setting
from .tensors import draw

WHERE = "section 6.1"


def proportion(says: str, group: str, rest: str) -> Claim:
    return Claim(
        key="proportion",
        where=WHERE,
        says=says,
        paper="expected, not measured",
        test=f"log10 of the relative update of {group} over that of {rest}: PercentDelta's mean over seeds has its "
        f"95% interval within {ALIKE:g} of 0 (a factor of 3.2), and SGD's distance from 0 minus PercentDelta's, "
        "paired, has it above 0",
    )


def useful(key: str, method: str, setting: str) -> Claim:
    return Claim(
        key=key,
        where=WHERE,
        says=f"{method} is useful for {setting}: better than SGD.",
        paper="expected, not measured",
        test=f"test metric at the end, {method} better than SGD, both at their tuned rates, paired by seed: 95% "
        "interval above 0",
    )


NETWORK = Setting(
    task="embeddings",
    arguments={
        "smoke": {"entities": 60, "train": 300, "test": 60},
        "cpu": {},
        "paper": {"entities": 10_000, "train": 500_000, "test": 20_000},
    },
    group="the shared network",
    names=("fc",),
    rest="the embeddings",
    metric="accuracy",
    squared=False,
    worst=1 / 6,
    batch={"smoke": 32, "cpu": 128, "paper": 256},
    steps={"smoke": 8, "cpu": 800, "paper": 10_000},
    proportion=proportion(
        "PercentDelta ensures that the shared network is not being updated much faster than the embeddings.",
        "the shared network",
        "the embeddings",
    ),
    useful=useful("useful", "PercentDelta", "embeddings learned with a shared network"),
    lars=useful("useful-lars", "LARS", "embeddings learned with a shared network"),
    specs={
        "PercentDelta": SPECS["PercentDelta"],
        "PercentDelta, rows": "percent-delta:segments={'embedding.weight':'rows'}",
        **{name: SPECS[name] for name in ("SGD", "Adam", "LARS")},
    },
)

WORDS = Setting(
    task="attention",
    arguments={
        "smoke": {"train": 300, "test": 60},
        "cpu": {},
        "paper": {"train": 100_000, "test": 20_000},
    },
    group="the softmax model",
    names=("attention",),
    rest="the rest of the network",
    metric="accuracy",
    squared=False,
    worst=1 / 12,
    batch={"smoke": 32, "cpu": 128, "paper": 256},
    steps={"smoke": 8, "cpu": 400, "paper": 5000},
    proportion=proportion(
        "PercentDelta ensures that the otherwise disproportionately large updates of the softmax model are "
        "proportional to those of the rest of the network.",
        "the softmax model",
        "the rest of the network",
    ),
    useful=useful("useful", "PercentDelta", "soft attention over a bag of words"),
    lars=useful("useful-lars", "LARS", "soft attention over a bag of words"),
)

SMALL = {"users": 40, "movies": 50, "ratings": 400}
RATINGS = Setting(
    task="factorisation",
    arguments={"smoke": SMALL, "cpu": {}, "paper": {"data": "movielens-100k-or-made"}},
    group="the global bias",
    names=("bias",),
    rest="the other tensors",
    metric="RMSE",
    squared=True,
    worst=2.5,
    batch={"smoke": 32, "cpu": 400, "paper": 400},
    steps={"smoke": 8, "cpu": 1600, "paper": 4000},
    proportion=proportion(
        "PercentDelta ensures that the global bias, which receives very large sums of gradients, trains at the speed "
        "of the other parameters.",
        "the global bias",
        "the other tensors",
    ),
    useful=useful("useful", "PercentDelta", "matrix factorisation with biases"),
    lars=useful("useful-lars", "LARS", "matrix factorisation with biases"),
)

TUNED = (
    "Every method at its rate of best validation score (two seeds; four rates a factor of three apart, and more while "
    "the best is at an end), the linear decay, momentum 0.9 (PercentDelta's averaged), 5 seeds."
)
ROWS = (
    "A layer of PercentDelta and LARS is a tensor, as in the paper: entries that a batch does not touch count for its "
    "size, so those it touches move the more."
)


def recipe(name: str, title: str, setting: Setting, setup: dict[str, str]) -> Recipe:
    return Recipe(
        name=name,
        paper="percentdelta",
        shows=(f"section 6.1, {title}",),
        title=f"{title[0].upper()}{title[1:]}: PercentDelta, SGD, Adam, LARS",
        claims=setting.claims,
        setup=setup,
        runs=partial(compare.runs, setting),
        measure=partial(compare.measure, setting),
        judge=partial(compare.judge, setting),
        draw=partial(draw, setting.metric, title[0].upper() + title[1:]),
    )


RECIPES: tuple[Recipe, ...] = (
    recipe(
        "percentdelta-shared-network",
        "embeddings into a shared network",
        NETWORK,
        {
            "smoke": "60 entities, 300 pairs, 8 steps.",
            "cpu": "Made data: which of 6 relations two of 1000 entities have, 30,000 pairs, Zipf; embeddings of 16 "
            f"into two hidden layers of 64; batch 128, 800 steps. {TUNED} {ROWS} In 'PercentDelta, rows' each row of "
            "the embedding is a layer of its own (`segments`).",
            "paper": "The same with 10,000 entities, 500,000 pairs, 10,000 steps; the paper gives no sizes.",
        },
    ),
    recipe(
        "percentdelta-attention",
        "soft attention over a bag of words",
        WORDS,
        {
            "smoke": "300 documents, 8 steps.",
            "cpu": "Made data: 8000 documents of 24 words on one of 12 topics, given word vectors; one to three words "
            "tell the topic, six name other topics. A network of 32 hidden units weighs the words, one of 2 x 64 "
            f"classifies; batch 128, 400 steps. {TUNED}",
            "paper": "The same with 100,000 documents, 5000 steps; the paper gives no sizes.",
        },
    ),
    recipe(
        "percentdelta-matrix-factorisation",
        "matrix factorisation with biases and a global bias",
        RATINGS,
        {
            "smoke": "400 made ratings, 8 steps.",
            "cpu": "Made ratings with MovieLens-100K's structure: 943 users, 1682 items, 100,000 ratings, a fifth of "
            f"them for testing; 4 factors, no weight decay; batch 400, 1600 steps. {TUNED} {ROWS}",
            "paper": "MovieLens-100K, split u1, where its files are at hand, made ratings otherwise; 4000 steps.",
        },
    ),
)
