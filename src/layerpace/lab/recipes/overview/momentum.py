"""Recipe overview-momentum: the overview's picture of momentum in a valley, and what its slides say of momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..recipe import Claim, Data, Finding, Recipe, Verdict
from ..statistics import difference, equal, every
from .factors import factor
from .momentum_pictures import draw
from .momentum_runs import BETA, GRID, MOMENTA, SAME_RATES, WINDOW, measure, runs

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


def logs(values: Sequence[float], times: float = 1.0) -> list[float]:
    return [math.log(value * times) for value in values]


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
        (every([equal(found, math.log(1.25)) for found in similar]), "; ".join(factor(found, 3) for found in similar)),
        (equal(variance, math.log(1.25)), factor(variance, 3)),
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


RECIPES = (
    Recipe(
        name="overview-momentum",
        paper="overview",
        shows=("slide More Momentum Intuition", "slides Momentum, Momentum Pros/Cons, Alternate Momentum Formula"),
        title="Momentum in a valley: the overview's picture, and what its slides say of momentum",
        claims=CLAIMS,
        setup={
            "smoke": "A parabola with curvature 1 and 25; noisy paths of 200 steps, 2 seeds.",
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
