"""Recipe overview-momentum: the overview's picture of momentum in a valley, and what its slides say of momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale, Verdict
from ..records import Records
from ..statistics import Interval, difference, equal, every
from .momentum_paths import HUNDREDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VALLEY = [1.0, 25.0]  # curvature along it and across it
START = [-4.0, 1.0]
LIMIT = 2 / VALLEY[1]  # gradient descent diverges above
GRID = (0.9, 1.1, 1.8, 2.0, 17.0, 21.0)  # times LIMIT
SAME_RATES = (0.005, 0.01, 0.02, 0.04)
BETA = 0.9
MOMENTA = (0.5, 0.9)
WINDOW = 2 / (1 - BETA) - 1  # steps of the simple average that the exponential one stands for
HEIGHT = 1.9  # of the picture, from its middle
PICTURE_AVERAGE = "momentum (average)"
PICTURE = {
    "gradient descent": ("heavy_ball", 0.07, 0.0),
    "larger rate": ("heavy_ball", 0.084, 0.0),
    PICTURE_AVERAGE: ("ema_momentum", 0.25, BETA),
}

CLAIMS = (
    Claim(
        "consistent", "slide Momentum", "Momentum speeds up descent where the gradient is consistent.",
        f"steps to a hundredth of the loss, momentum {BETA} / gradient descent, rates {SAME_RATES[0]:g} and "
        f"{SAME_RATES[1]:g}: both below 0.5",
    ),
    Claim(
        "safe", "slide More Momentum Intuition", "With momentum the learning rate can be increased safely.",
        "largest rate of the grid that reaches a hundredth of the loss: momentum and average above gradient descent",
    ),
    Claim(
        "similar", "slide Momentum", "Increasing momentum has a similar effect to increasing the learning rate.",
        "loss at the end with noisy gradients, lr (1 - mu) with momentum mu against lr without, mean of log ratios "
        f"over seeds for mu in {MOMENTA[0]} and {MOMENTA[1]}: 95% interval within a factor of 1.25",
    ),
    Claim(
        "variance", "slides Momentum Pros/Cons and Alternate Momentum Formula",
        "The average of gradients has the variance of a simple average over 2 / (1 - beta) - 1 of them.",
        f"variance of the average of pure noise / that of the noise, times {WINDOW:g}, mean of logs over seeds: 95% "
        "interval within a factor of 1.25",
        paper=f"beta {BETA}: {WINDOW:g} steps",
    ),
    Claim(
        "lags", "slide Momentum Pros/Cons", "Momentum lags behind the true direction: it overshoots the minimum.",
        "changes of sign along the valley at rate 0.02: some with momentum, none without",
    ),
    Claim(
        "equivalent", "slide Alternate Momentum Formula",
        "The average with rate eta is momentum with mu = eta beta and rate eta (1 - beta).",
        "largest distance of the two paths over 40 steps: below 1e-9",
        paper="equivalent",
    ),
    Claim(
        "nesterov", "slide Nesterov's Accelerated Gradient", "Nesterov converges faster than momentum.",
        f"steps to a hundredth of the loss at rates {', '.join(f'{lr:g}' for lr in SAME_RATES)}, momentum {BETA}: "
        "fewer at each",
    ),
)  # fmt: skip


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


def factor(found: Interval) -> str:
    """The interval of a log, as a factor."""
    low, high = (math.exp(end) if math.isfinite(end) else end for end in (found.low, found.high))
    return f"{math.exp(found.mean):.3f} [{max(low, 0):.3f}, {high:.3f}]"


def logs(values: Sequence[float], times: float = 1.0) -> list[float]:
    return [math.log(value * times) for value in values]


def apart(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest distance of two paths at the same step; inf if one ended early."""
    if len(a) != len(b):
        return math.inf
    return max(math.dist(p, q) for p, q in zip(a, b, strict=True))


def largest(reached: Sequence[int | None]) -> float:
    """The largest rate of the grid, in units of gradient descent's limit, that got there; 0: none."""
    return max((rate for rate, steps in zip(GRID, reached, strict=True) if steps is not None), default=0.0)


def judge(data: Data) -> list[Finding]:
    """By exact figures, but for what noise decides."""
    same, losses = data["same"], data["losses"]
    plain, ball, nesterov = (
        same[f"same {name}"] for name in ("heavy_ball 0", f"heavy_ball {BETA}", f"nesterov {BETA}")
    )
    ratios = [b / a if a and b else math.inf for a, b in zip(plain[:2], ball[:2], strict=True)]
    rates = [largest(row) for row in data["grid"].values()]
    similar = [difference(logs(losses[f"noisy {mu:g}"]), logs(losses["noisy 0"])) for mu in MOMENTA]
    flat = data["variances"]
    variance = difference(logs(flat[f"flat {BETA:g}"], WINDOW), logs(flat["flat 0"]))
    at = SAME_RATES.index(0.02)
    crossings = [data["crossings"][f"same heavy_ball {mu:g}"][at] for mu in (0.0, BETA)]
    distances = data["apart"]
    fewer = [n is not None and (b is None or n < b) for n, b in zip(nesterov, ball, strict=True)]
    said = ", ".join(f"{n} against {b}" for n, b in zip(nesterov, ball, strict=True))
    ours: list[tuple[Verdict, str]] = [
        (decided(max(ratios) < 0.5), ", ".join(f"{ratio:.2f}" for ratio in ratios)),
        (
            decided(min(rates[1:]) > rates[0]),
            f"gradient descent {rates[0]:g}, momentum {rates[1]:g}, average {rates[2]:g} times 2 / curvature",
        ),
        (every([equal(found, math.log(1.25)) for found in similar]), "; ".join(factor(found) for found in similar)),
        (equal(variance, math.log(1.25)), factor(variance)),
        (decided(crossings[1] > 0 and crossings[0] == 0), f"{crossings[1]} with momentum, {crossings[0]} without"),
        (
            decided(distances[0] < 1e-9),
            f"{distances[0]:.2g} with mu = eta beta, as the slide has it; {distances[1]:.2g} with mu = beta",
        ),
        (decided(all(fewer)), f"steps {said}"),
    ]
    return [Finding(claim, verdict, text) for claim, (verdict, text) in zip(CLAIMS, ours, strict=True)]


def decided(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


def draw(data: Data) -> Figure:
    """The slide's picture, and beside it the steps at each rate."""
    figure = new_figure(12.5, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    draw_valley(left, data["paths"])
    names = {"heavy_ball 0": "gradient descent", f"heavy_ball {BETA}": "momentum", f"nesterov {BETA}": "Nesterov"}
    for number, (key, name) in enumerate(names.items()):
        steps = [math.nan if value is None else value for value in data["same"][f"same {key}"]]
        right.plot(SAME_RATES, steps, marker="o", color=METHOD_COLOURS[(0, 1, 3)[number]], label=name)
    tidy(right)
    right.set_xscale("log")
    right.set_xticks(SAME_RATES, [f"{lr:g}" for lr in SAME_RATES])
    right.minorticks_off()
    right.set_yscale("log")
    right.set_xlabel("learning rate")
    right.set_ylabel("steps to a hundredth of the loss")
    right.set_title("the same rate, momentum 0.9", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    figure.suptitle("Momentum in a valley: curvature 1 along it, 25 across (momentum)", fontsize=11)
    return figure


def draw_valley(axes: Axes, paths: dict[str, list[list[float]]]) -> None:
    """Contours of the loss, and the paths of `PICTURE`."""
    import numpy as np

    x, y = np.meshgrid(np.linspace(-4.6, 3, 160), np.linspace(-HEIGHT, HEIGHT, 120))
    heights = 0.5 * (VALLEY[0] * x**2 + VALLEY[1] * y**2)
    axes.contour(x, y, heights, levels=[0.3, 1.5, 4, 8, 14, 22, 32], colors="0.8", linewidths=0.8)
    for name, colour in zip(PICTURE, ("#0072B2", "#CC79A7", "#D55E00"), strict=True):
        _, lr, momentum = PICTURE[name]
        said = f"{name}: rate {lr:g}" + (f", {momentum:g}" if momentum else "")
        places = np.array(paths[name])
        outside = (abs(places[:, 1]) > HEIGHT).nonzero()[0]
        if len(outside):  # it has diverged: its next steps would only cover the others
            places = places[: outside[0] + 1]
        axes.plot(places[:, 0], places[:, 1], marker=".", markersize=4, linewidth=1.3, color=colour, label=said)
    axes.plot(0, 0, marker="+", color="black", markersize=10)
    axes.set_xlim(-4.6, 3)
    axes.set_ylim(-HEIGHT, HEIGHT)
    axes.set_xlabel("along the valley")
    axes.set_ylabel("across")
    axes.legend(frameon=True, fontsize=8, loc="lower right")
    axes.set_title("40 steps", fontsize=10)


RECIPES = (
    Recipe(
        name="overview-momentum",
        paper="overview",
        shows=("slide More Momentum Intuition", "slides Momentum, Momentum Pros/Cons, Alternate Momentum Formula"),
        title="Momentum in a valley: the overview's picture, and what its slides say of momentum",
        claims=CLAIMS,
        setup={
            "smoke": "A parabola with curvature 1 and 25; noisy paths of 400 steps, 2 seeds.",
            "cpu": "A parabola with curvature 1 and 25; noisy paths of 4000 steps, 10 seeds. The slide's picture has "
            "no figures; rates are chosen so that gradient descent converges at one and not at the other. What the "
            "slides say of perfect scaling is in noisy-quadratic and batch-size-scaling.",
            "paper": "As at cpu scale.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
        runner="layerpace.recipes.overview.momentum_paths:run",
    ),
)
