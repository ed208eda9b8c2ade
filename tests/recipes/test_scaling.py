"""Batch-size scaling: the measure of its curve, the search of rates, and the verdicts, on made figures."""

from __future__ import annotations

import math
from typing import Any

import pytest

from layerpace.recipes.overview import scaling
from layerpace.recipes.overview.scaling_curve import extent, slopes
from layerpace.recipes.overview.scaling_search import Search
from layerpace.recipes.recipe import Data, Request, Scale
from layerpace.recipes.records import Record, Records

BATCHES = [2**k for k in range(5, 15)]


def test_perfect_scaling_ends_where_the_steps_are_half_as_many_again() -> None:
    flat = [max(1024.0 / 2**k, 64.0) for k in range(10)]  # perfect to the factor 16, then nothing
    assert extent([2.0**k for k in range(10)], flat) == pytest.approx(16 * 1.5)
    assert extent([1, 2, 4], [8, 4, 2]) == 4
    assert extent([1, 2, 4], [8, 4, None]) == 2
    assert math.isnan(extent([1, 2], [None, 4]))
    assert slopes([1, 2, 4], [8, 4, 4]) == [-1.0, 0.0]


class Made(Record):
    """A run with a made curve: steps to the target are best at one rate, and fall with the batch."""

    BEST = 0.27  # times batch / 8

    @property
    def curve(self) -> list[dict[str, Any]]:
        request = self.request
        off = abs(math.log(request["lr"] / (self.BEST * request["batch_size"] / 8)))
        reached = math.ceil(400 * 8 / request["batch_size"] * (1 + off))
        rows = [{"step": 0, "test_score": 0.0, "validation_score": 0.0}]
        if reached <= request["steps"]:
            rows.append({"step": reached, "test_score": 1.0, "validation_score": 1.0})
        return rows


def request(method: str, batch: int, lr: float, seed: int, steps: int) -> Request:
    return {"method": method, "batch_size": batch, "lr": lr, "seed": seed, "steps": steps}


def searched(search: Search, lr: float) -> tuple[Records, list[Request]]:
    """Ask and answer until nothing new is asked for."""
    records = Records()
    asked: list[Request] = []
    while True:
        new = [r for r in search.walk(records, "sgd", lr)[0] if r not in records]
        if not new:
            return records, asked
        for one in new:
            asked.append(one)
            result = {"status": "done", "validation_score": 1.0}
            records.add(one, Made(one, None, result))  # type: ignore[arg-type]


def test_the_search_walks_to_the_best_rate_and_follows_the_batch() -> None:
    search = Search(request, batches=[8, 16, 32], first=4000, least=5, target=0.9, seed=99, seeds=range(3))
    records, asked = searched(search, lr=0.01)
    stages = search.walk(records, "sgd", 0.01)[1]
    assert [stage.lr for stage in stages] == [0.27, 0.4677, 1.403]  # of 0.01 * 3^(k/2), the nearest to 0.27, 0.54, 1.08
    assert not any(stage.edge for stage in stages)
    assert stages[1].steps == math.ceil(1.25 * 400)  # a little more than the batch before needed
    tests = [r for r in asked if r["seed"] != 99]
    assert [r["seed"] for r in tests] == [0, 1, 2] * 3
    assert all(r["lr"] == stage.lr for stage in stages for r in stage.tests)


def test_a_target_that_no_rate_reaches_ends_nothing() -> None:
    search = Search(request, batches=[8, 16], first=100, least=5, target=0.9, seed=99, seeds=range(2))
    records, asked = searched(search, lr=0.27)
    stages = search.walk(records, "sgd", 0.27)[1]
    assert [stage.tests for stage in stages] == [[], []]
    assert {r["seed"] for r in asked} == {99}


def test_cpu_scale_has_the_batches_and_tests_no_seed_of_the_search() -> None:
    search = scaling.search(Scale("cpu"))
    assert list(search.batches) == BATCHES
    assert len(search.seeds) >= 3
    assert search.seed not in search.seeds
    first = scaling.runs(Scale("cpu"), Records())
    assert len(first) == 3 * len(scaling.METHODS)
    assert {r["seed"] for r in first} == {search.seed}
    assert {r["validation"] for r in first} == {0.1}


def made(extents: dict[str, float], noise: float = 0.02, small: float = 1.0) -> Data:
    """Perfect scaling from 512 steps to an extent, then a plateau; the same small differences between seeds."""

    def rows(name: str) -> list[dict[str, Any]]:
        first = 512 * (small if name == "momentum" else 1)
        least = first * BATCHES[0] / extents[name]
        return [
            {
                "batch": batch, "lr": 0.01 * batch, "edge": False, "tried": {},
                "steps": [max(first * BATCHES[0] / batch, least) * (1 + noise * seed * (seed + place % 2))
                          for seed in range(3)],
            }
            for place, batch in enumerate(BATCHES)
        ]  # fmt: skip

    model = {"SGD": [64.0, 32.0, 32.0], "momentum 0.9": [64.0, 32.0, 16.0]}
    return {
        "batches": BATCHES, "target": 0.9, "data": "made", "methods": {name: rows(name) for name in scaling.METHODS},
        "model": {"batches": [1.0, 2.0, 4.0], "dimensions": 1, "target": 0.1, "steps": model},
    }  # fmt: skip


EXTENTS = dict.fromkeys(scaling.METHODS, 2048.0) | {"SGD": 256.0, "momentum": 512.0, "Adam": 4096.0}


def verdicts(data: Data) -> dict[str, str]:
    (recipe,) = scaling.RECIPES
    return {finding.claim.key: finding.verdict for finding in recipe.findings(data)}


def test_all_claims_hold_on_figures_made_for_them() -> None:
    assert set(verdicts(made(EXTENTS)).values()) == {"holds"}


def test_claims_fail_on_figures_made_against_them() -> None:
    found = verdicts(made(EXTENTS | {"momentum": 128.0, "LARS": 64.0, "Adam": 32.0}, small=2.0))
    against = ("momentum-small", "momentum-extends", "lars-extends", "adaptive", "model", "perfect")
    assert [found[key] for key in against] == ["does not hold"] * len(against)


def test_one_seed_and_a_missing_method_decide_nothing() -> None:
    data = made(EXTENTS)
    del data["methods"]["LAMB"]
    for rows in data["methods"].values():
        for row in rows:
            row["steps"] = row["steps"][:1]
    found = verdicts(data)
    assert {found[key] for key in ("perfect", "ends", "momentum-extends", "lamb-extends")} == {"not decided"}


def test_the_figure_sets_the_model_beside_the_runs() -> None:
    data = made(EXTENTS)
    data["methods"]["LARS"][-1]["steps"] = [None] * 3
    left, middle, right = scaling.draw(data).axes
    assert {axes.get_xscale() for axes in (left, middle, right)} == {"log"}
    assert {axes.get_yscale() for axes in (left, middle, right)} == {"log"}
    legend = middle.get_legend()
    assert legend is not None
    titles = [text.get_text() for text in legend.get_texts()]
    assert titles == ["SGD", "momentum 0.9", "perfect scaling"]
