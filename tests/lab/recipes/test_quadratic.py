"""The noisy quadratic model against plain recursions and layerpace's optimizers, and the recipe's verdicts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import layerpace as lp
from layerpace.lab.recipes.overview import quadratic
from layerpace.lab.recipes.overview.quadratic_model import (
    Rule,
    doubled,
    first_crossing,
    grid,
    loss,
    maps,
    run,
    start,
    steps_to,
    tuned,
    walked,
)
from layerpace.lab.recipes.recipe import Scale
from layerpace.lab.recipes.records import Record, Records

CURVATURE = 1 / torch.arange(1, 9, dtype=torch.float64)


def counted(rule: Rule, lr: float, average: float, batch: float, target: float, h: Tensor = CURVATURE) -> int:
    """Steps by the recursion of mean and covariance, dimension by dimension, with no matrix power."""
    theta, velocity, mean = torch.ones_like(h), torch.zeros_like(h), torch.ones_like(h)
    tt, tv, vv, ta, va, aa = (torch.zeros_like(h) for _ in range(6))  # covariances
    for step in range(1, 10_000):
        k, mu, noise = h ** (1 - rule.power), rule.momentum, h ** (1 - 2 * rule.power) / batch
        theta, velocity = theta - lr * (mu * velocity + k * theta), mu * velocity + k * theta
        mean = average * mean + (1 - average) * theta
        vv_new = mu * mu * vv + 2 * mu * k * tv + k * k * tt + noise
        tv_new = mu * tv + k * tt - lr * vv_new
        tt_new = tt - 2 * lr * (mu * tv + k * tt) + lr * lr * vv_new
        va_old = mu * va + k * ta  # of the new velocity and the old average
        ta_old = ta - lr * va_old
        aa = average**2 * aa + 2 * average * (1 - average) * ta_old + (1 - average) ** 2 * tt_new
        ta, va = average * ta_old + (1 - average) * tt_new, average * va_old + (1 - average) * tv_new
        tt, tv, vv = tt_new, tv_new, vv_new
        if float(0.5 * (h * (mean**2 + aa)).sum()) <= target:
            return step
    raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("rule", "lr", "average"),
    [(Rule(), 0.3, 0.0), (Rule(0.9), 0.05, 0.0), (Rule(0.0, 0.5), 0.2, 0.0), (Rule(0.5, 0.25), 0.1, 0.8)],
)
@pytest.mark.parametrize("batch", [4.0, 64.0])
def test_powers_of_the_map_count_the_steps_of_the_recursion(
    rule: Rule, lr: float, average: float, batch: float
) -> None:
    powers = doubled(*maps(rule, CURVATURE, torch.tensor([lr], dtype=torch.float64), average), 2**12)
    assert steps_to(powers, CURVATURE, batch, 0.1) == [counted(rule, lr, average, batch, 0.1)]


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_the_first_crossing_counts_where_momentum_oscillates(momentum: float) -> None:
    curvature = 1 / torch.arange(1, 31, dtype=torch.float64)
    rule, batch, target = Rule(momentum), 1024.0, 0.05
    rates = grid(rule, 16)
    step = maps(rule, curvature, torch.tensor(rates, dtype=torch.float64), 0.0)
    later = steps_to(doubled(*step, 2**11), curvature, batch, target)
    found = first_crossing(walked(*step, curvature, rule.restless(1e-6)), batch, target, later)
    within = [place for place, steps in enumerate(later) if steps < 2**11]
    assert len(within) >= 8
    assert [found[k] for k in within] == [counted(rule, rates[k], 0, batch, target, curvature) for k in within]
    assert found != later  # the powers alone overlook some
    (row,) = tuned(rule, [batch], 30, target, count=16, most=2**11)
    assert row["steps"] is not None
    assert row["steps"] <= min(found)  # of these or finer rates


def test_a_walk_without_a_crossing_leaves_what_came_later() -> None:
    step = maps(Rule(0.5), CURVATURE, torch.tensor([0.1, 0.2], dtype=torch.float64), 0.0)
    for steps in (0, 3):
        assert first_crossing(walked(*step, CURVATURE, steps), 8.0, 1e-3, [70.0, 60.0]) == [70, 60]
    assert Rule().restless(1e-6) == 0
    assert 0.9 ** Rule(0.9).restless(1e-6) < 1e-6


def test_without_noise_the_model_is_the_optimizer() -> None:
    theta = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
    direction = lp.directions.HeavyBall(0.8)
    optimizer = lp.optim.Layerwise([theta], direction=direction, rule=lp.rules.Identity(), lr=0.2)
    for _ in range(16):
        theta.grad = CURVATURE * theta.detach()
        optimizer.step()
    map_, noise = maps(Rule(0.8), CURVATURE, torch.tensor([0.2], dtype=torch.float64), 0.0)
    (power, _), moments = doubled(map_, noise, 16)[4], start(1, 8)
    modelled = loss(CURVATURE, power @ moments @ power.transpose(-1, -2))
    assert float(modelled) == pytest.approx(float(0.5 * (CURVATURE * theta.detach() ** 2).sum()), rel=1e-12)


def test_a_target_that_noise_hides_is_not_reached() -> None:
    (row,) = tuned(Rule(), [0.01], dimensions=8, target=0.01, count=3, most=2**8)
    assert row["steps"] is None


def made(scale: Scale) -> Records:
    records = Records()
    for request in quadratic.runs(scale, Records()):
        records.add(request, Record(request, None, run(request, None)))  # type: ignore[arg-type]
    return records


def test_the_smallest_scale_runs_to_a_figure() -> None:
    scale = Scale("smoke")
    data = quadratic.measure(scale, made(scale))
    (recipe,) = quadratic.RECIPES
    findings = {finding.claim.key: finding for finding in recipe.findings(data)}
    assert findings["preconditioning-fewer"].verdict == "holds"
    left, middle, _ = recipe.draw(data).axes
    assert (left.get_xscale(), left.get_yscale(), middle.get_yscale()) == ("log", "log", "log")
    assert len(left.lines) == len(quadratic.RULES) + 1  # and perfect scaling


def curve(extent: float, first: float = 1000.0, least: float = 10.0) -> list[float]:
    """Made: perfect scaling, then a plateau; batches 1, 2, 4, ..."""
    return [max(first / 2**k, least, first / extent) for k in range(12)]


def test_verdicts_follow_the_figures() -> None:
    sizes = [2.0**k for k in range(12)]
    base: dict[str, Any] = {"steps": curve(32), "lr": [0.01 * size for size in sizes], "extent": 50.0}
    rules = {name: copy.deepcopy(base) for name in quadratic.RULES}
    rules["momentum 0.9"] |= {"steps": curve(64), "extent": 100.0}
    rules[quadratic.ROOT] |= {"steps": [0.5 * value for value in curve(64)], "extent": 100.0}
    rules[quadratic.AVERAGED]["steps"] = [0.8 * value for value in curve(32)[:6]] + curve(32)[6:]
    data = {"batches": sizes, "rules": rules, "dimensions": 1, "target": 1}
    assert {finding.verdict for finding in quadratic.judge(data)} == {"holds"}
    rules["momentum 0.9"] |= {"extent": 60.0}
    rules["momentum 0.9"]["steps"][0] *= 1.5
    failing = {finding.claim.key for finding in quadratic.judge(data) if finding.verdict == "does not hold"}
    assert failing == {"momentum-extends", "momentum-small", "perfect"}
    rules["SGD"]["steps"][0] = None
    assert {finding.verdict for finding in quadratic.judge(data)} == {"not decided"}
