"""The runs of the recipe batch-size-scaling, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...recording import steps_to
from ..recipe import Data, Request, Scale
from ..records import Records
from ..tasks import reference
from .quadratic_model import Rule, tuned
from .scaling_measures import extents
from .scaling_search import Search, Stage

# title: (method, rate at which the search starts at the smallest batch)
METHODS = {
    "SGD": ("sgd:momentum=0", 0.3),
    "momentum": ("sgd", 0.03),
    "Adam": ("adam", 0.001),
    "LARS": ("lars", 3.0),
    "LAMB": ("lamb", 0.003),
    "LAMBC": ("lambc", 0.003),
    "PercentDelta": ("percent-delta", 0.03),
    "Layca": ("layca", 0.01),
}
SMOKE_METHODS = ("SGD", "momentum", "LARS")
MODEL = {  # of `quadratic_model`: the prediction beside it
    "SGD": Rule(),
    "momentum 0.9": Rule(momentum=0.9),
    "preconditioned, p = 1/2": Rule(power=0.5),
}
SEARCH_SEED = 1000


def search(scale: Scale) -> Search:
    data = scale.pick("digits-as-mnist", "mnist", "mnist")
    options = scale.pick({"width": 16, "depth": 1}, {"width": 64, "depth": 2}, {"width": 256, "depth": 3})
    target = scale.pick(0.15, 0.93, 0.97)

    def make(method: str, batch: int, lr: float, seed: int, steps: int) -> Request:
        return {
            "task": reference("images", data=data, model="mlp", options=options),
            "method": method, "lr": lr, "seed": seed, "batch_size": batch, "steps": steps,
            "schedule": "constant", "validation": 0.1, "eval_every": max(1, steps // 60), "eval_size": 2000,
            "record_every": steps, "threads": scale.pick(1, 1, None), "device": scale.device,
        }  # fmt: skip

    return Search(
        make,
        batches=scale.pick([64, 512], [2**place for place in range(5, 15)], [2**place for place in range(5, 16)]),
        first=scale.pick(24, 1000, 8000),
        least=scale.pick(3, 12, 12),
        target=target,
        seed=SEARCH_SEED,
        seeds=scale.seeds(2, 5, 5),
        further=scale.pick(0, 4, 4),
    )


def methods(scale: Scale) -> dict[str, tuple[str, float]]:
    return {name: METHODS[name] for name in (SMOKE_METHODS if scale.name == "smoke" else METHODS)}


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    searched = search(scale)
    return [request for method, lr in methods(scale).values() for request in searched.walk(records, method, lr)[0]]


def row_of(stage: Stage, records: Records, searched: Search) -> dict[str, Any]:
    """One method at one batch: what was tried, the best rate, and the steps of each seed (None: it missed)."""
    curves = [None if record.diverged else record.curve for record in records.of(stage.tests)]
    steps = [None if curve is None else steps_to(curve, "test_score", searched.target) for curve in curves]
    tried = {f"{rate:g}": None if math.isinf(count) else count for rate, count in sorted(stage.tried.items())}
    row = {"batch": stage.batch, "lr": stage.lr, "edge": stage.edge, "tried": tried}
    return {**row, "steps": steps or [None] * len(searched.seeds)}


def predicted(scale: Scale) -> dict[str, Any]:
    """The noisy quadratic model's steps: {"batches", "dimensions", "target", "steps": {title: steps a batch}}."""
    sizes = [2.0**place for place in (range(0, 12, 2) if scale.name == "smoke" else range(2, 14))]
    dimensions, target = scale.pick((20, 0.1), (300, 0.05), (300, 0.05))
    steps = {
        name: [row["steps"] for row in tuned(rule, sizes, dimensions, target, count=24, most=2**15)]
        for name, rule in MODEL.items()
    }
    return {"batches": sizes, "dimensions": dimensions, "target": target, "steps": steps}


def measure(scale: Scale, records: Records) -> Data:
    """{"batches", "target", "methods": {title: rows a batch, see `row_of`}, "extents": see `extents`, "model"}."""
    searched = search(scale)
    found = {
        name: [row_of(stage, records, searched) for stage in searched.walk(records, method, lr)[1]]
        for name, (method, lr) in methods(scale).items()
    }
    return {
        "batches": list(searched.batches),
        "target": searched.target,
        "data": scale.pick("digits", "MNIST", "MNIST"),
        "methods": found,
        "extents": extents(searched.batches, found),
        "model": predicted(scale),
    }
