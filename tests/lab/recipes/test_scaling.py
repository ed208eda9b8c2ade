"""Batch-size scaling: the measure of its curve, the search of rates, and the verdicts, on made figures."""

from __future__ import annotations

import math
from typing import Any

import pytest

from layerpace.lab.recipes.overview import scaling, scaling_measures, scaling_pictures, scaling_runs
from layerpace.lab.recipes.overview.scaling_curve import extent, extent_within, slopes
from layerpace.lab.recipes.overview.scaling_search import Search
from layerpace.lab.recipes.recipe import Data, Request, Scale
from layerpace.lab.recipes.records import Record, Records

BATCHES = [2**k for k in range(5, 15)]


def test_perfect_scaling_ends_where_the_steps_are_half_as_many_again() -> None:
    flat = [max(1024.0 / 2**k, 64.0) for k in range(10)]  # perfect to the factor 16, then nothing
    assert extent([2.0**k for k in range(10)], flat) == pytest.approx(16 * 1.5)
    assert extent([1, 2, 4], [8, 4, 2]) == 4
    assert extent([1, 2, 4], [8, 4, None]) == 2
    assert math.isnan(extent([1, 2], [None, 4]))
    assert slopes([1, 2, 4], [8, 4, 4]) == [-1.0, 0.0]


def test_where_the_target_is_missed_the_end_lies_between_two_batches() -> None:
    assert extent_within([1, 2, 4, 8], [8, 4, None, 1]) == (2, 4)
    assert extent_within([1, 2, 4], [8, 4, 2]) == (4, math.inf)
    assert extent_within([1, 2, 4, 8], [8, 4, 4, None]) == pytest.approx((2 * 1.5, 2 * 1.5))
    assert all(map(math.isnan, extent_within([1, 2], [None, 4])))


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
    assert [r["steps"] for r in stages[0].tests] == [1000] * 3  # 2.5 times the 400 that the search needed
    assert all(r["lr"] == stage.lr for stage in stages for r in stage.tests)


def test_a_target_that_no_rate_reaches_ends_nothing() -> None:
    search = Search(request, batches=[8, 16], first=100, least=5, target=0.9, seed=99, seeds=range(2))
    records, asked = searched(search, lr=0.27)
    stages = search.walk(records, "sgd", 0.27)[1]
    assert [stage.tests for stage in stages] == [[], []]
    assert {r["seed"] for r in asked} == {99}


def test_cpu_scale_has_the_batches_and_tests_no_seed_of_the_search() -> None:
    search = scaling_runs.search(Scale("cpu"))
    assert list(search.batches) == BATCHES
    assert len(search.seeds) >= 3
    assert search.seed not in search.seeds
    first = scaling_runs.runs(Scale("cpu"), Records())
    assert len(first) == 3 * len(scaling_runs.METHODS)
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
    methods = {name: rows(name) for name in scaling_runs.METHODS}
    return again({
        "batches": BATCHES, "target": 0.9, "data": "made", "methods": methods,
        "model": {"batches": [1.0, 2.0, 4.0], "dimensions": 1, "target": 0.1, "steps": model},
    })  # fmt: skip


def again(data: Data) -> Data:
    """With the extents of changed rows."""
    return {**data, "extents": scaling_measures.extents(data["batches"], data["methods"])}


EXTENTS = dict.fromkeys(scaling_runs.METHODS, 2048.0) | {"SGD": 256.0, "momentum": 512.0, "Adam": 4096.0}


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
    found = verdicts(again(data))
    assert {found[key] for key in ("perfect", "ends", "momentum-extends", "lamb-extends")} == {"not decided"}


def judged(data: Data) -> dict[str, tuple[str, str]]:
    return {finding.claim.key: (finding.verdict, finding.ours) for finding in scaling.judge(data)}


def test_a_seed_that_misses_the_target_leaves_its_claims_undecided() -> None:
    """The others alone would be the fast ones."""
    for method, place, keys in (
        ("momentum", 0, ("perfect", "momentum-small", "momentum-extends", "lars-extends", "model")),
        ("Adam", -1, ("ends", "adaptive")),
        ("SGD", -1, ("ends", "model")),
    ):
        data = made(EXTENTS)
        data["methods"][method][place]["steps"][1] = None
        found = judged(again(data))
        for key in keys:
            assert found[key][0] == "not decided", key
            assert "2 of 3 seeds" in found[key][1], key
        rest = {verdict for key, (verdict, _) in found.items() if key not in keys}
        assert rest <= {"holds", "not decided"}


def test_an_end_that_is_open_decides_only_what_is_so_in_any_case() -> None:
    data = made(EXTENTS)
    for row in data["methods"]["LARS"][5:]:  # missed from 1024 on: its end is above momentum's 512 * 1.5, or not
        row["steps"] = [None] * 3
    assert judged(again(data))["lars-extends"][0] == "not decided"
    data = made(EXTENTS)
    data["methods"]["LARS"][7]["steps"] = [None] * 3  # 4096: somewhere after 2048
    verdict, ours = judged(again(data))["lars-extends"]
    assert (verdict, ours[:8]) == ("holds", "at least")
    data = made(EXTENTS | {"momentum": 2048.0, "LARS": 512.0})
    data["methods"]["LARS"][3]["steps"] = [None] * 3  # 256: somewhere after 128
    verdict, ours = judged(again(data))["lars-extends"]
    assert (verdict, ours[:7]) == ("does not hold", "at most")
    data = made(EXTENTS | {"momentum": 2.0**14})  # does not end
    assert judged(again(data))["lars-extends"][0] != "holds"


def test_the_ends_of_all_methods_are_said() -> None:
    ours = judged(made(EXTENTS))["ends"][1]
    where = ours.split("Perfect scaling ends at batch: ")[1].split(", ")
    assert [one.split()[0] for one in where] == list(scaling_runs.METHODS)
    assert all(abs(math.log(float(one.split()[1]) / (1.5 * EXTENTS[one.split()[0]]))) < 0.2 for one in where)
    open_end = judged(made(EXTENTS | {"Layca": 2.0**14}))["ends"][1]
    assert open_end.endswith("Layca more than 16384")


def test_the_slope_of_the_rate_is_of_all_batches_within_perfect_scaling() -> None:
    data = made(EXTENTS)
    data["methods"]["SGD"][2]["lr"] *= 32  # an inner one: the first and the last alone would not show it
    verdict, ours = judged(data)["rate"]
    assert (verdict, "one seed" in ours) == ("does not hold", True)
    assert "slope 1.50 over 4 batches" in ours


def test_the_figure_sets_the_model_beside_the_runs() -> None:
    data = made(EXTENTS)
    data["methods"]["LARS"][-1]["steps"] = [None] * 3
    data["methods"]["Adam"][-1]["steps"][0] = None
    left, middle, right = scaling_pictures.draw(again(data)).axes
    assert {axes.get_xscale() for axes in (left, middle, right)} == {"log"}
    assert {axes.get_yscale() for axes in (left, middle, right)} == {"log"}
    legend = middle.get_legend()
    assert legend is not None
    titles = [text.get_text() for text in legend.get_texts()]
    labels = [str(line.get_label()) for line in left.lines if not str(line.get_label()).startswith("_")]
    assert [label.split(":")[0] for label in labels[:8]] == list(scaling_runs.METHODS)
    assert labels[8:] == ["perfect scaling", "hollow: without seeds that missed the target"]
    diamonds = [line for line in left.lines if line.get_marker() == "D"]
    ends = [float(line.get_xdata()[0]) for line in diamonds]  # type: ignore[index,arg-type]
    assert ends == pytest.approx([1.5 * EXTENTS[name] for name in scaling_runs.METHODS], rel=0.2)
    places: list[Any] = [line.get_xdata() for line in left.lines if line.get_fillstyle() == "none"]
    assert [list(place) for place in places] == [[BATCHES[-1]], []]  # the second is the legend's
    assert titles == ["SGD", "momentum 0.9", "perfect scaling"]
