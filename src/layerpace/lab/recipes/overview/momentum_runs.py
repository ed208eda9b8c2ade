"""The paths of the recipe overview-momentum, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..recipe import Data, Request, Scale
from ..records import Records
from .momentum_paths import HUNDREDTH

VALLEY = [1.0, 25.0]  # curvature along it and across it
START = [-4.0, 1.0]
LIMIT = 2 / VALLEY[1]  # gradient descent diverges above
GRID = (0.9, 1.1, 1.8, 2.0, 17.0, 21.0)  # times LIMIT
SAME_RATES = (0.005, 0.01, 0.02, 0.04)
BETA = 0.9
MOMENTA = (0.5, 0.9)
WINDOW = 2 / (1 - BETA) - 1  # steps of the simple average that the exponential one stands for
PICTURE_AVERAGE = "momentum (average)"
PICTURE = {
    "gradient descent": ("heavy_ball", 0.07, 0.0),
    "larger rate": ("heavy_ball", 0.084, 0.0),
    PICTURE_AVERAGE: ("ema_momentum", 0.25, BETA),
}


def request(kind: str, lr: float, momentum: float, steps: int = 600, **others: Any) -> Request:
    plain = {"curvature": VALLEY, "start": START, "noise": 0.0, "seed": 0, "average": 1, "enough": 0.0}
    return {**plain, "kind": kind, "lr": lr, "momentum": momentum, "steps": steps, **others}


def noisy(scale: Scale, kind: str, lr: float, momentum: float, seed: int, **others: Any) -> Request:
    """A path with gradient noise, long enough to forget its start."""
    steps = scale.pick(200, 4000, 4000)
    start = {"noise": 1.0, "start": [0.1, 0.1], "average": steps * 3 // 4}
    return request(kind, lr, momentum, steps, seed=seed, **start, **others)


def seeds(scale: Scale) -> range:
    return scale.seeds(2, 10, 10)


def plan(scale: Scale) -> dict[str, list[Request]]:
    """All requests, by what they are for."""
    rate = 0.008  # of the noisy paths: a tenth of the limit
    wanted = {name: [request(*how, steps=40)] for name, how in PICTURE.items()}
    for kind, momentum in (("heavy_ball", 0.0), ("heavy_ball", BETA), ("nesterov", BETA)):
        wanted[f"same {kind} {momentum:g}"] = [request(kind, lr, momentum, enough=HUNDREDTH) for lr in SAME_RATES]
    for kind, momentum in (("heavy_ball", 0.0), ("heavy_ball", BETA), ("ema_momentum", BETA)):
        wanted[f"grid {kind} {momentum:g}"] = [
            request(kind, factor * LIMIT, momentum, enough=HUNDREDTH) for factor in GRID
        ]
    for momentum in (0.0, *MOMENTA):
        lr = float(f"{rate * (1 - momentum):.4g}")
        wanted[f"noisy {momentum:g}"] = [noisy(scale, "heavy_ball", lr, momentum, seed) for seed in seeds(scale)]
    for momentum in (0.0, BETA):
        wanted[f"flat {momentum:g}"] = [
            noisy(scale, "ema_momentum", 0.001, momentum, seed, curvature=[0.0, 0.0]) for seed in seeds(scale)
        ]
    _, lr, beta = PICTURE[PICTURE_AVERAGE]
    near = float(f"{lr * (1 - beta):.4g}")
    wanted["as the slide says"] = [request("heavy_ball", near, lr * beta, steps=40)]
    wanted["as it is"] = [request("heavy_ball", near, beta, steps=40)]
    return wanted


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    return [request for requests in plan(scale).values() for request in requests]


def measure(scale: Scale, records: Records) -> Data:
    """{"paths": places of the picture, "apart": distances of paths, and figures by what they are for}."""
    results = {name: [record.result for record in records.of(requests)] for name, requests in plan(scale).items()}

    def all_of(start: str, key: str) -> dict[str, list[Any]]:
        return {name: [row[key] for row in rows] for name, rows in results.items() if name.startswith(start)}

    paths = {name: rows[0]["places"] for name, rows in results.items()}
    return {
        "paths": {name: [[float(f"{x:.4g}") for x in place] for place in paths[name]] for name in PICTURE},
        "apart": [apart(paths[PICTURE_AVERAGE], paths[name]) for name in ("as the slide says", "as it is")],
        "same": all_of("same", "reached"),
        "grid": all_of("grid", "reached"),
        "crossings": all_of("same", "crossings"),
        "losses": all_of("noisy", "losses"),
        "variances": all_of("flat", "variance"),
    }


def apart(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest distance of two paths at the same step; inf if one ended early."""
    if len(a) != len(b):
        return math.inf
    return max(math.dist(p, q) for p, q in zip(a, b, strict=True))
