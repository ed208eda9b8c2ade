"""The overview's paths against closed forms, and the recipe's verdicts and picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layerpace.lab.recipes.overview import momentum as overview
from layerpace.lab.recipes.overview import momentum_pictures, momentum_runs
from layerpace.lab.recipes.overview.momentum_paths import FAR, path, run
from layerpace.lab.recipes.recipe import Data, Scale
from layerpace.lab.recipes.records import Record, Records

VALLEY, START = (1.0, 25.0), (-4.0, 1.0)


@pytest.fixture(scope="module")
def data() -> Data:
    """Measured from all runs of the smallest scale."""
    scale, records, threads = Scale("smoke"), Records(), torch.get_num_threads()
    torch.set_num_threads(1)
    for request in momentum_runs.runs(scale, records):
        records.add(request, Record(request, None, run(request, None)))  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    return momentum_runs.measure(scale, records)


def test_gradient_descent_shrinks_each_component_by_its_curvature() -> None:
    places = path("heavy_ball", 0.03, 0.0, VALLEY, START, steps=5)
    factors = 1 - 0.03 * torch.tensor(VALLEY, dtype=torch.float64)
    expected = torch.stack([torch.tensor(START, dtype=torch.float64) * factors**t for t in range(6)])
    torch.testing.assert_close(places, expected, rtol=1e-12, atol=0)


def test_momentum_is_polyaks_three_term_recursion() -> None:
    places = path("heavy_ball", 0.01, 0.9, VALLEY, START, steps=8)
    h = torch.tensor(VALLEY, dtype=torch.float64)
    for t in range(1, 8):
        expected = places[t] - 0.01 * h * places[t] + 0.9 * (places[t] - places[t - 1])
        torch.testing.assert_close(places[t + 1], expected, rtol=1e-12, atol=1e-14)


def test_a_path_that_diverges_ends_early() -> None:
    places = path("heavy_ball", 0.2, 0.0, VALLEY, START, steps=500)
    assert len(places) < 100
    assert float(places[-1].abs().max()) > FAR
    with pytest.raises(ValueError, match="'polyak': choose from heavy_ball"):
        path("polyak", 0.2, 0.0, VALLEY, START, steps=5)


def test_what_needs_no_noise_is_decided_at_the_smallest_scale(data: Data) -> None:
    (recipe,) = overview.RECIPES
    found = {finding.claim.key: finding.verdict for finding in recipe.findings(data)}
    assert [found[key] for key in ("consistent", "safe", "lags", "nesterov")] == ["holds"] * 4
    assert found["equivalent"] == "does not hold"  # with mu = eta beta, as the slide has it ...
    assert data["apart"][1] < 1e-9  # ... but with mu = beta


def test_verdicts_turn_with_the_figures(data: Data) -> None:
    other = {
        **data,
        "apart": [0.0, 0.0],
        "crossings": {name: [0] * 4 for name in data["crossings"]},
        "losses": {"noisy 0": [1.0, 1.1], "noisy 0.5": [1.0, 1.12], "noisy 0.9": [3.0, 3.1]},
        "variances": {"flat 0": [1.0, 1.01], "flat 0.9": [1.0, 1.02]},
        "same": {name: [20, 20, 20, 20] for name in data["same"]},
        "grid": {name: [5, None, None, None, None, None] for name in data["grid"]},
    }
    found = {finding.claim.key: finding.verdict for finding in overview.judge(other)}
    assert found.pop("equivalent") == "holds"
    assert set(found.values()) == {"does not hold"}


def test_cpu_scale_has_ten_seeds_of_each_noisy_path() -> None:
    plan = momentum_runs.plan(Scale("cpu"))
    noisy = [requests for name, requests in plan.items() if name.startswith(("noisy", "flat"))]
    assert all({request["seed"] for request in requests} == set(range(10)) for requests in noisy)


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_the_setup_says_how_long_the_noisy_paths_are(scale: Any) -> None:
    (recipe,) = overview.RECIPES
    (steps,) = {request["steps"] for request in momentum_runs.plan(Scale(scale))["noisy 0"]}
    assert f"noisy paths of {steps} steps" in recipe.setup[scale]


def test_the_picture_shows_three_paths_and_steps(data: Data) -> None:
    left, right = momentum_pictures.draw(data).axes
    assert [str(line.get_label()).split(":")[0] for line in left.lines[:3]] == list(momentum_runs.PICTURE)
    assert len(right.lines) == 3
