"""The noisy quadratic model: how steps to a target loss depend on the batch size, without a single random number.

The loss is a sum of independent parabolas, and the gradient of a batch of B examples is the true one plus noise::

    L(theta) = 1/2 sum_i h_i theta_i^2,        g_i = h_i theta_i + xi_i,        Var(xi_i) = c_i / B
    h_i = c_i = 1/i,  i = 1 ... d,             theta_i = 1 at the start

All methods are one linear map of (theta, v, a) in each dimension, with noise added to it::

    v <- mu v + h^-p g         heavy-ball momentum mu; preconditioned with the curvature's power p
    theta <- theta - lr v
    a <- gamma a + (1 - gamma) theta       average of the weights, which the loss is measured at; gamma = 0: theta

So second moments P = E[x x^T] follow P <- A P A^T + N/B exactly, and powers of the map by doubling reach any number of
steps. The model has no time, no network and no data: it says what noise and curvature alone do.

Reference: Zhang et al., "Which algorithmic choices matter at which batch sizes? Insights from a noisy quadratic model"
(2019), sections 3 and 4. Adam and K-FAC are p = 1/2 and more there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_STEPS = 2**22
COARSE = 1.5  # factor between neighbouring learning rates of the grid
FINER = 5  # rates on each side of the best one, up to its neighbours
OSCILLATION = 1e-6  # share of the first loss below which what oscillates is left out


@dataclass(frozen=True)
class Rule:
    """A method of the model.

    Attributes:
        momentum: mu, in [0, 1).
        power: p, of the preconditioner h^-p, in [0, 1].
        averages: values of gamma to choose from, each in [0, 1).
    """

    momentum: float = 0.0
    power: float = 0.0
    averages: tuple[float, ...] = (0.0,)

    @property
    def fastest(self) -> float:
        """The learning rate at which the steepest dimension (h = 1) starts to diverge, with gradients free of noise."""
        return 2 * (1 + self.momentum)

    def restless(self, oscillation: float) -> int:
        """Steps until oscillations have died down to this share of the loss, so that only steady decay is left.

        A dimension with lr h >= (1 - sqrt(mu))^2 oscillates, and its loss decays as mu^t; every other decays steadily.
        """
        return math.ceil(math.log(oscillation) / math.log(self.momentum)) if self.momentum else 0


def maps(rule: Rule, curvature: Tensor, lr: Tensor, average: float) -> tuple[Tensor, Tensor]:
    """The map A of one step and its noise covariance N at batch 1: both [R, D, 3, 3], of R rates and D dimensions."""
    effective = curvature ** (1 - rule.power)
    rate = lr[:, None].expand(len(lr), len(curvature))
    mu, zero = torch.full_like(rate, rule.momentum), torch.zeros_like(rate)
    theta = torch.stack([1 - rate * effective, -rate * mu, zero], -1)
    velocity = torch.stack([effective.expand_as(rate), mu, zero], -1)
    mean = (1 - average) * theta + average * theta.new_tensor([0.0, 0.0, 1.0])
    entry = torch.stack([-rate, torch.ones_like(rate), -(1 - average) * rate], -1)
    variance = curvature ** (1 - 2 * rule.power)  # c h^(-2p), with c = h
    noise = variance[:, None, None] * (entry[..., :, None] * entry[..., None, :])
    return torch.stack([theta, velocity, mean], -2), noise


def after(map_: Tensor, noise: Tensor, moments: Tensor, batch: float) -> Tensor:
    """Second moments after the step, or steps, that (A, N) stand for: A P A^T + N/B."""
    return map_ @ moments @ map_.transpose(-1, -2) + noise / batch


def doubled(map_: Tensor, noise: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
    """(A, N) of 1, 2, 4, ... steps, up to ``most``."""
    found = [(map_, noise)]
    while 2 ** len(found) <= most:
        map_, noise = found[-1]
        found.append((map_ @ map_, after(map_, noise, noise, 1.0)))
    return found


def loss(curvature: Tensor, moments: Tensor) -> Tensor:
    """1/2 sum_i h_i E[a_i^2]: [R] of moments [R, D, 3, 3]."""
    return 0.5 * (curvature * moments[..., 2, 2]).sum(-1)


def start(rates: int, dimensions: int) -> Tensor:
    """theta = a = 1 and v = 0 everywhere: [R, D, 3, 3]."""
    x = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, device="cpu")
    return torch.outer(x, x).expand(rates, dimensions, 3, 3)


def steps_to(powers: Sequence[tuple[Tensor, Tensor]], curvature: Tensor, batch: float, target: float) -> list[float]:
    """Steps until the loss is at the target, for each rate; inf where it is not reached in 2^len(powers) - 1 steps.

    The largest jump that stays above the target is taken again and again, which takes the loss for falling until
    then. Where it oscillates this is a later crossing than the first one; see `first_crossing`.
    """
    moments = start(len(powers[0][0]), len(curvature))
    done = torch.zeros(len(moments), dtype=torch.float64, device="cpu")
    for place in reversed(range(len(powers))):
        jumped = after(*powers[place], moments, batch)
        stays = ~(loss(curvature, jumped) <= target)  # nan: it has diverged
        moments = torch.where(stays[:, None, None, None], jumped, moments)
        done += stays.double() * 2**place
    return [math.inf if steps >= 2 ** len(powers) - 1 else steps + 1 for steps in done.tolist()]


def walked(map_: Tensor, noise: Tensor, curvature: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The loss step by step: (without noise, what noise adds to it at batch 1), both [steps, R], after 1, 2, ... steps.

    The loss at batch B is the first plus the second / B, so that one walk is enough for all batch sizes.
    """
    mean = map_.new_tensor([1.0, 0.0, 1.0])[:, None].expand(*map_.shape[:2], 3, 1)
    covariance = torch.zeros_like(map_)
    free, added = [], []
    for _ in range(steps):
        mean, covariance = map_ @ mean, after(map_, noise, covariance, 1.0)
        free.append(0.5 * (curvature * mean[..., 2, 0] ** 2).sum(-1))
        added.append(loss(curvature, covariance))
    none = map_.new_zeros(0, len(map_))
    return (torch.stack(free), torch.stack(added)) if steps else (none, none)


def first_crossing(walk: tuple[Tensor, Tensor], batch: float, target: float, later: Sequence[float]) -> list[float]:
    """The first step of a walk with the loss at or below the target, for each rate; `later` where there is none."""
    free, added = walk
    there = free + added / batch <= target
    first = there.int().argmax(0) + 1 if len(there) else torch.zeros(len(later), device="cpu")
    found = there.any(0).tolist()
    return [float(step) if hit else other for step, hit, other in zip(first.tolist(), found, later, strict=True)]


def grid(rule: Rule, count: int) -> list[float]:
    """So many learning rates, from just below the fastest down."""
    return [0.98 * rule.fastest / COARSE**place for place in range(count)]


def around(rule: Rule, lr: float) -> list[float]:
    """Rates between the neighbours of one of the grid, itself among them."""
    finer = [lr * COARSE ** (place / (FINER + 1)) for place in range(-FINER, FINER + 1)]
    return [rate for rate in finer if rate <= 0.98 * rule.fastest * 1.0001]


def tuned(
    rule: Rule,
    batches: Sequence[float],
    dimensions: int,
    target: float,
    count: int,
    most: int = MOST_STEPS,
    oscillation: float = OSCILLATION,
) -> list[dict[str, float | None]]:
    """For each batch size the fewest steps to the target, and the rate and the average that they take.

    Args:
        rule: the method.
        batches: sizes, in examples.
        dimensions: of the model.
        target: the loss.
        count: rates of the grid.
        most: steps that are looked at.
        oscillation: in (0, 1), see `Rule.restless`: so long every step is looked at.

    Returns:
        A row a batch size: batch, steps (None: no rate reaches the target), lr, average, edge (1: the best rate is the
        lowest that was tried).
    """
    curvature = 1 / torch.arange(1, dimensions + 1, dtype=torch.float64, device="cpu")
    best: dict[float, tuple[float, float, float]] = {}  # batch: (steps, lr, average)
    coarse = grid(rule, count)

    def look(rates: Sequence[float], sizes: Sequence[float], average: float) -> None:
        """Try these rates at these batch sizes."""
        step = maps(rule, curvature, torch.tensor(rates, dtype=torch.float64, device="cpu"), average)
        powers = doubled(*step, most)
        enough = max(best[batch][0] if batch in best else math.inf for batch in sizes)  # later is no better
        walk = walked(*step, curvature, int(min(rule.restless(oscillation), most, enough)))
        for batch in sizes:
            steps = first_crossing(walk, batch, target, steps_to(powers, curvature, batch, target))
            place = min(range(len(rates)), key=lambda place: steps[place])
            found = (steps[place], rates[place], average)
            best[batch] = min(best.get(batch, found), found)

    for average in rule.averages:
        look(coarse, batches, average)
    edges = {batch: best[batch][1] == coarse[-1] for batch in batches}
    for batch in batches:
        _, lr, average = best[batch]
        look(around(rule, lr), [batch], average)
    return [
        {
            "batch": batch,
            "steps": best[batch][0] if math.isfinite(best[batch][0]) else None,
            "lr": float(f"{best[batch][1]:.4g}"),
            "average": best[batch][2],
            "edge": float(edges[batch]),
        }
        for batch in batches
    ]


def run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run of a recipe: momentum, power, averages, batches, and arguments of `tuned` -> its rows."""
    rule = Rule(config["momentum"], config["power"], tuple(config["averages"]))
    sizes = {key: config[key] for key in ("dimensions", "target", "count", "most", "oscillation")}
    return {"status": "done", "rows": tuned(rule, config["batches"], **sizes)}
