"""The recipes of the layer rotation paper: what they ask for, how they judge, what they draw; tiny trainings only."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from layerpace.lab.errors import UsageError
from layerpace.lab.methods import parse_method
from layerpace.lab.recipes import rotation
from layerpace.lab.recipes.recipe import Data, Recipe, Request, Scale
from layerpace.lab.recipes.records import Record, Records, key
from layerpace.lab.recipes.rotation import curves as rotation_curves
from layerpace.lab.recipes.rotation import mlps as rotation_mlps
from layerpace.lab.recipes.rotation import search as rotation_search
from layerpace.lab.recipes.rotation.family import turned
from layerpace.lab.recipes.rotation.losses import plateau
from layerpace.lab.recipes.rotation.models import measure_12
from layerpace.lab.recipes.rotation.trainings import CNN2, PAPER, SMALL, WRN, power
from layerpace.lab.recipes.rotation.watched import run as watched
from layerpace.lab.schedule import Schedule

RECIPES = {recipe.name: recipe for recipe in rotation.RECIPES}
CPU = Scale("cpu")
Score = Callable[[Request], float]


def exponent(request: Mapping[str, Any]) -> float:
    return round(math.log(request["lr"], 3), 2)


def finished(recipe: Recipe, scale: Scale, score: Score) -> tuple[Records, list[Request]]:
    """All that the recipe asks for, stage by stage, each with a validation score and no folder."""
    records = Records()
    asked: dict[str, Request] = {}
    while True:
        new = {key(run): run for run in recipe.runs(scale, records) if run not in records}
        if not new:
            return records, list(asked.values())
        asked.update(new)
        for run in new.values():
            records.add(run, Record(run, Path(), {"status": "done", "validation_score": score(run), "test_score": 0.5}))


def peak(at: Mapping[str, float]) -> Score:
    """Best at an exponent that depends on the method, and the further away the worse."""
    return lambda run: 0.9 - 0.1 * abs(exponent(run) - at[run["method"]])


# What is asked for


def test_all_figures_and_tables_are_there() -> None:
    shown = {name for recipe in RECIPES.values() for name in recipe.shows}
    figures = ("1", "2a", "2b", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
    assert {f"figure {number}" for number in figures} | {f"table {n}" for n in (1, 2, 3, 4)} <= shown


def test_rates_are_searched_on_the_first_seed_and_then_the_others_train_at_the_best() -> None:
    recipe = RECIPES["rotation-figure-4"]
    first = recipe.runs(CPU, Records())
    assert {run["seed"] for run in first} == {0}
    assert sorted({exponent(run) for run in first if run["method"] == "layca"}) == [-4, -3, -2]
    _, asked = finished(recipe, CPU, peak({"layca": -3, "sgd:momentum=0": -1, "sgd:momentum=0,wd=0.002": 0}))
    rates = {method: {exponent(run) for run in asked if run["method"] == method} for method in ("layca",)}
    assert rates["layca"] == {-4, -3, -2}
    seeds = {
        method: {(run["seed"], exponent(run)) for run in asked if run["method"] == method and run["seed"] > 0}
        for method in {run["method"] for run in asked}
    }
    assert seeds == {
        "layca": {(1, -3), (2, -3), (3, -3), (4, -3)},
        "sgd:momentum=0": {(1, -1), (2, -1)},
        "sgd:momentum=0,wd=0.002": {(1, 0), (2, 0), (3, 0), (4, 0)},
    }
    l2 = {exponent(run) for run in asked if run["method"].endswith("wd=0.002")}
    assert l2 == {-2, -1, 0, 1}  # the best was the highest of those tried first: one more


def seeds_by_method(name: str, scale: Scale) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for run in finished(RECIPES[name], scale, lambda run: 0.5)[1]:
        found.setdefault(run["method"], set()).add(run["seed"])
    return found


def test_what_is_said_to_be_on_par_has_five_seeds() -> None:
    five, six = seeds_by_method("rotation-figure-5", CPU), seeds_by_method("rotation-figure-6", CPU)
    assert {method: len(seeds) for method, seeds in {**five, **six}.items()} == {
        "layca": 5, "rmsprop:alpha=0.9": 5, "adam": 3, "sgd:momentum=0": 3, "rmsprop+rotation:alpha=0.9": 5,
        "layca:direction=adam": 5, "layca:direction=ema_momentum": 5,
    }  # fmt: skip
    eight = seeds_by_method("rotation-figure-8", CPU)
    assert {method: len(seeds) for method, seeds in eight.items()} == {"layca": 5, "sgd+limited_norm": 5}
    assert set(map(len, seeds_by_method("rotation-c10-cnn1", Scale("paper")).values())) == {5}


def test_rmsprop_smooths_as_in_the_authors_code_also_under_layca() -> None:
    methods = {run["method"] for run in RECIPES["rotation-c10-cnn1"].runs(CPU, Records()) if "rms" in run["method"]}
    built = {
        method: parse_method(method).build([("w", torch.nn.Parameter(torch.ones(2, 2)))], 0.1) for method in methods
    }
    assert {type(optimizer.rule).__name__ for optimizer in built.values()} == {"Identity", "Rotation"}  # type: ignore[attr-defined]
    assert {optimizer.direction.alpha for optimizer in built.values()} == {0.9}  # type: ignore[attr-defined]


def test_figures_share_their_runs() -> None:
    score = peak({"layca": -3, "sgd:momentum=0": -1, "sgd:momentum=0,wd=0.002": -1})
    _, four = finished(RECIPES["rotation-figure-4"], CPU, score)
    _, ten = finished(RECIPES["rotation-figure-10"], CPU, score)
    assert {key(run) for run in ten} <= {key(run) for run in four}


def test_the_search_tries_the_next_rate_and_half_steps_between_neighbours() -> None:
    best = {"layca:alpha=-0.6": -1, "layca:alpha=-0.3": -2, "layca": -3, "layca:alpha=0.3": -3, "layca:alpha=0.6": -2}
    records, asked = finished(RECIPES["rotation-b2-search"], CPU, peak(best))
    tried = {method: sorted(exponent(run) for run in asked if run["method"] == method) for method in best}
    assert tried == {
        "layca:alpha=-0.6": [-4, -3, -2, -1.5, -1, 0],
        "layca:alpha=-0.3": [-4, -3, -2.5, -2, -1.5, -1],
        "layca": [-4, -3, -2.5, -2],
        "layca:alpha=0.3": [-4, -3, -2.5, -2],
        "layca:alpha=0.6": [-4, -3, -2.5, -2, -1],
    }
    data = rotation_search.measure_b2(CPU, records)
    assert [cell["best"] for cell in data["tasks"][0]["cells"]] == [-1, -2, -3, -3, -2]
    assert set(verdicts("rotation-b2-search", data).values()) == {"holds"}
    records, _ = finished(RECIPES["rotation-b2-search"], CPU, peak({**best, "layca:alpha=0.6": 9}))
    inside, _ = RECIPES["rotation-b2-search"].findings(rotation_search.measure_b2(CPU, records))
    assert inside.verdict == "does not hold" and "at an end: α = 0.6" in inside.ours
    records, _ = finished(RECIPES["rotation-b2-search"], CPU, peak(dict.fromkeys(best, 9) | {"layca": 8}))
    data = rotation_search.measure_b2(CPU, records)
    assert data["tasks"][0]["most"] == 11 and verdicts("rotation-b2-search", data)["cheap"] == "holds"
    for cell in data["tasks"][0]["cells"]:
        cell["tried"] += 2 * [cell["tried"][0]]
    assert verdicts("rotation-b2-search", data)["cheap"] == "does not hold"
    records, _ = finished(RECIPES["rotation-b2-search"], Scale("smoke"), peak(best))
    assert verdicts("rotation-b2-search", rotation_search.measure_b2(Scale("smoke"), records))["cheap"] == "not decided"


def test_figure_2a_takes_half_steps_at_paper_scale() -> None:
    def score(run: Request) -> float:
        return 0.9 - 0.1 * abs(exponent(run) - (-2.6 if run["method"] == "layca:alpha=0.6" else -3.4))

    _, asked = finished(RECIPES["rotation-figure-2a"], Scale("paper"), score)
    last = {exponent(run) for run in asked if run["method"] == "layca:alpha=0.6" and run["seed"] == 4}
    none = {exponent(run) for run in asked if run["method"] == "layca:alpha=0.4" and run["seed"] == 4}
    assert (last, none) == ({-3}, set())

    def apart(run: Request) -> float:
        return 0.9 - 0.1 * abs(exponent(run) - (-2.4 if run["method"] == "layca:alpha=0.6" else -3))

    _, asked = finished(RECIPES["rotation-figure-2a"], Scale("paper"), apart)
    last = {exponent(run) for run in asked if run["method"] == "layca:alpha=0.6" and run["seed"] == 4}
    assert last == {-2.5}
    here = finished(RECIPES["rotation-figure-2a"], CPU, apart)[1]
    assert {exponent(run) for run in here if run["method"] == "layca:alpha=0.6" and run["seed"] == 2} == {-2}


def test_the_papers_rates_of_figures_3_and_9() -> None:
    for name in ("rotation-figure-3", "rotation-figure-9"):
        _, asked = finished(RECIPES[name], Scale("paper"), lambda run: 0.5)
        assert {exponent(run) for run in asked if run["method"] == "layca"} == {-3, -3.2, -3.4, -3.6, -3.8, -4}


def test_figure_7_trains_as_long_as_the_papers_axis() -> None:
    (run, *_) = RECIPES["rotation-figure-7"].runs(Scale("paper"), Records())
    assert run["steps"] == 39_000 == 500 * (10_000 // run["batch_size"])


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_every_request_is_one_that_the_lab_can_read(scale: Any) -> None:
    for recipe in RECIPES.values():
        for run in recipe.runs(Scale(scale), Records()):
            method = parse_method(run["method"])
            schedule = Schedule.of(run["schedule"])
            assert run["steps"] > 0 and run["batch_size"] > 0, run
            assert not method.rates and method.schedule is None, run
            assert schedule.kind in ("steps", "constant"), run
            assert run["threads"] == (1 if scale == "cpu" else None)


def test_the_papers_settings() -> None:
    assert SMALL.epoch() == 9000 // 64
    _, asked = finished(RECIPES["rotation-figure-4"], Scale("paper"), lambda run: 0.5)
    own = [run for run in asked if "torch-blog-vgg" in run["task"] and run["seed"] == 0]
    l2 = next(run for run in own if "wd" in run["method"])
    assert (l2["method"], l2["lr"], l2["steps"]) == ("sgd:momentum=0,wd=0.001", 0.5, 250 * CNN2.epoch())
    assert l2["schedule"].startswith("steps:0.5@0.1/0.2/") and "augment=True" in l2["task"]
    wide = next(run for run in asked if "wrn" in run["task"] and "wd" in run["method"])
    assert (wide["lr"], wide["steps"], wide["schedule"]) == (0.1, 200 * WRN.epoch(), "steps:0.2@0.3/0.6/0.8")
    _, adaptive = finished(RECIPES["rotation-figure-5"], Scale("paper"), lambda run: 0.5)
    for task, method, steps, schedule in (
        ("torch-blog-vgg", "rmsprop:alpha=0.9,wd=0.001", 250 * CNN2.epoch(), l2["schedule"]),
        ("wrn-28-10", "adam:wd=0.001", 200 * WRN.epoch(), wide["schedule"]),
        ("c10-cnn1", "rmsprop:alpha=0.9", 100 * PAPER[0].epoch(), PAPER[0].schedule),
    ):
        (one,) = {
            (run["steps"], run["schedule"])
            for run in adaptive
            if f"'{task}'" in run["task"] and run["method"] == method
        }
        assert one == (steps, schedule)
    alone = {(run["task"], exponent(run)) for run in adaptive if run["method"] == "adam"}
    assert [("cifar100" in task and "resnet-32" in task, rate) for task, rate in alone] == [(True, -5)]
    assert len({run["task"] for run in asked}) == len(PAPER) == 5
    assert {run["seed"] for run in asked} == set(range(5))
    layca = {run["lr"] for run in asked if run["method"] == "layca"}
    assert layca == {power(-3)}


# How claims are judged, and pictures


def variant(title: str, test: list[float], **other: Any) -> Data:
    curves = {"steps": [1, 10], "layers": {f"layer{k}": [0.0, 0.1 * k] for k in range(12)}}
    made = {"title": title, "rate": 0.1, "tried": {}, "test": test, "train": [1.0] * len(test), "rotation": curves}
    return {**made, "height": [0.5, 0.5, 0.5], "spread": [0.2, 0.2, 0.2], **other}


def one_task(variants: dict[str, Data]) -> Data:
    task = {"key": "small", "title": "small CNN", "epoch": 5, "variants": variants}
    return {"scale": "cpu", "tasks": [task]}


def figure_4(sgd: list[float], l2: list[float]) -> Data:
    return one_task(
        {
            "layca": variant("Layca", [0.70, 0.71, 0.70]),
            "sgd": variant("SGD", sgd, height=[0.1, 0.11, 0.1], spread=[0.5, 0.52, 0.5]),
            "sgd-l2": variant("SGD + L2", l2, height=[0.3, 0.3, 0.3], spread=[0.3, 0.31, 0.31]),
        }
    )


def verdicts(name: str, data: Data) -> dict[str, str]:
    assert json.loads(json.dumps(data)) == data
    return {finding.claim.key: finding.verdict for finding in RECIPES[name].findings(data)}


def test_figure_4_is_judged_by_intervals() -> None:
    found = verdicts("rotation-figure-4", figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695]))
    own = {key: found.pop(key) for key in ("as-high", "as-uniform")}
    assert set(found.values()) == {"holds"}
    assert set(own.values()) == {"does not hold"}  # above SGD's, and far from Layca's
    data = figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695])
    for field in ("height", "spread"):
        near = [value * 1.05 for value in data["tasks"][0]["variants"]["layca"][field]]
        data["tasks"][0]["variants"]["sgd-l2"][field] = near
    again = verdicts("rotation-figure-4", data)
    assert (again["as-high"], again["as-uniform"]) == ("holds", "holds")
    found = verdicts("rotation-figure-4", figure_4([0.80, 0.81, 0.80], [0.60, 0.61, 0.60]))
    assert (found["sgd"], found["l2"], found["par"]) == ("does not hold",) * 3
    found = verdicts("rotation-figure-4", figure_4([0.60, 0.80, 0.70], [0.70, 0.60, 0.80]))
    assert (found["sgd"], found["l2"], found["par"]) == ("not decided",) * 3


def test_a_claim_about_several_tasks_needs_all_of_them() -> None:
    good, bad = figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695]), figure_4([0.80, 0.81, 0.80], [0.7, 0.7, 0.7])
    both = {**good, "tasks": good["tasks"] + [{**bad["tasks"][0], "key": "other"}]}
    found = RECIPES["rotation-figure-4"].findings(both)[0]
    assert found.verdict == "does not hold" and "small: " in found.ours and "other: " in found.ours


def test_figure_4_has_a_panel_a_method_and_a_line_a_layer() -> None:
    figure = RECIPES["rotation-figure-4"].draw(figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695]))
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title().split("\n")[0] for axes in panels] == ["SGD", "SGD + L2", "Layca"]
    assert [len(axes.lines) for axes in panels] == [12, 12, 12]
    assert "-10.0" in panels[0].get_title() and "70.3%" in panels[2].get_title()
    assert all("training 100.0%" in axes.get_title() for axes in panels)


def test_seeds_that_one_method_has_alone_do_not_count() -> None:
    data = figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695])
    three = RECIPES["rotation-figure-4"].findings(data)[0].ours
    data["tasks"][0]["variants"]["layca"]["test"] += [0.1, 0.1]
    assert RECIPES["rotation-figure-4"].findings(data)[0].ours == three


def test_a_finding_says_where_a_rate_is_at_an_end_and_how_well_training_went() -> None:
    data = figure_4([0.60, 0.61, 0.60], [0.70, 0.70, 0.695])
    tried = data["tasks"][0]["variants"]["sgd"]
    found = RECIPES["rotation-figure-4"].findings
    assert "(training 100.0 ± 0.0%)" in found(data)[0].ours and "tried" not in found(data)[0].ours
    for rates, word in (((0.1, 0.3), "lowest"), ((0.03, 0.1), "highest"), ((0.03, 0.1, 0.3), ""), ((0.1,), "")):
        tried["tried"] = dict.fromkeys(map(str, rates), 0.5)
        for place in (0, 5):  # of accuracies, and of distances
            assert (f"rate 0.1 is the {word} tried" in found(data)[place].ours) == bool(word)


def figure_2a(rate: float, best: list[float]) -> Data:
    alphas = {f"alpha={alpha}": variant(f"{alpha}", [0.4, 0.41, 0.4]) for alpha in (-0.6, 0.6)}
    rates = {f"rho=3^{e}": variant(f"3^{e}", [0.5, 0.51, 0.5]) for e in (-5, -4)}
    return one_task({**alphas, **rates, "layca": variant("Layca", best, rate=rate)})


def test_figure_2a_looks_at_the_rate_and_at_what_it_brings() -> None:
    for rate, best, verdict in (
        (power(-3), [0.90, 0.91, 0.92], "holds"),
        (power(-4), [0.90, 0.91, 0.92], "does not hold"),
        (power(-5), [0.90, 0.91, 0.92], "does not hold"),
        (power(-3), [0.01, 0.02, 0.03], "does not hold"),
        (power(-3.5), [0.4, 0.6, 0.5], "not decided"),
    ):
        assert verdicts("rotation-figure-2a", figure_2a(rate, best))["best"] == verdict


def figure_5(height: list[float], spread: list[float]) -> Data:
    made = {name: variant(name, [0.6, 0.6, 0.61]) for name in ("layca", "adam", "sgd")}
    return one_task({**made, "adaptive": variant("RMSProp", [0.6, 0.6, 0.61], height=height, spread=spread)})


@pytest.mark.parametrize(
    ("height", "spread", "verdict"),
    [
        ([0.70, 0.71, 0.70], [0.2, 0.2, 0.2], "holds"),
        ([0.50, 0.50, 0.50], [0.40, 0.41, 0.42], "holds"),
        ([0.51, 0.51, 0.51], [0.2, 0.2, 0.2], "does not hold"),  # surely apart, by a trifle
        ([0.30, 0.50, 0.70], [0.2, 0.2, 0.2], "not decided"),
        ([0.54, 0.56, 0.58], [0.2, 0.2, 0.2], "not decided"),  # above 0 at 95%, but not at 97.5%
    ],
)
def test_figure_5_other_rotation_by_either_measure(height: list[float], spread: list[float], verdict: str) -> None:
    found = RECIPES["rotation-figure-5"].findings(figure_5(height, spread))[-1]
    assert found.verdict == verdict
    assert "height" in found.ours and "spread" in found.ours


def figure_8(height: list[float], spread: list[float]) -> Data:
    layca = variant("Layca", [0.6, 0.6, 0.61], height=[0.2, 0.4, 0.2])
    return one_task({"layca-sgd": layca, "lars": variant("LARS", [0.6, 0.6, 0.61], height=height, spread=spread)})


@pytest.mark.parametrize(
    ("height", "spread", "wanted"),
    [
        ([0.22, 0.44, 0.23], [0.21, 0.20, 0.21], ("holds", "holds")),
        ([0.28, 0.55, 0.28], [0.30, 0.31, 0.30], ("does not hold", "does not hold")),
        ([0.2, 0.6, 0.2], [0.1, 0.2, 0.3], ("not decided", "not decided")),
    ],
)
def test_figure_8_is_judged_by_laycas_own_height_and_spread(
    height: list[float], spread: list[float], wanted: tuple[str, str]
) -> None:
    found = verdicts("rotation-figure-8", figure_8(height, spread))
    assert (found["height"], found["spread"]) == wanted


@pytest.mark.parametrize(("train", "verdict"), [([1.0, 0.99, 1.0], "holds"), ([0.8, 0.9, 0.8], "does not hold")])
def test_tables_of_training_accuracy(train: list[float], verdict: str) -> None:
    for name, keys in (("2", rotation_curves.KEYS_2B), ("3", ["sgd", "sgd-l2"]), ("4", ["adaptive"])):
        data = one_task({key: variant(key, [0.5] * 3, train=train) for key in keys})
        assert verdicts(f"rotation-table-{name}", data) == {"train": verdict}
        assert "do not reach 100%" in RECIPES[f"rotation-table-{name}"].setup["cpu"]


def figure_6(off: float) -> Data:
    def made(title: str, shift: float) -> Data:
        scores = [0.5 + shift, 0.6 + shift, 0.7 + shift]
        learning = {"step": [0, 5, 10], "train_loss": [None, 1.0, 0.5], "test_score": scores}
        late = [[0.60 + shift, 0.70 + shift], [0.61 + shift, 0.70 + shift], [0.60 + shift, 0.71 + shift]]
        return variant(title, [score + shift for score in (0.70, 0.71, 0.70)], learning=learning, late=late)

    variants = {"layca-rmsprop": made("RMSProp", off), "layca-sgd": made("SGD", 0.0)}
    data = one_task(variants)
    data["tasks"][0]["pairs"] = [["layca-rmsprop", "layca-sgd"]]
    return data


def test_figure_6_curves_coincide_or_do_not() -> None:
    assert verdicts("rotation-figure-6", figure_6(0.005)) == {"end": "holds", "curves": "holds"}
    assert verdicts("rotation-figure-6", figure_6(-0.1)) == {"end": "does not hold", "curves": "does not hold"}
    figure = RECIPES["rotation-figure-6"].draw(figure_6(0.005))
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]


def figure_1(fall: float, train: float = 1.0) -> Data:
    rows = [
        {"test": [0.8 - fall * layer, 0.81 - fall * layer, 0.8 - fall * layer], "train": [train] * 3}
        for layer in range(10)
    ]
    return {"scale": "cpu", "layers": rows}


def test_figure_1_by_its_slope() -> None:
    assert set(verdicts("rotation-figure-1", figure_1(0.02)).values()) == {"holds"}
    rising = verdicts("rotation-figure-1", figure_1(-0.01, train=0.9))
    assert set(rising.values()) == {"does not hold"}
    (axes,) = RECIPES["rotation-figure-1"].draw(figure_1(0.02)).axes
    assert len(axes.get_xticks()) == 10


def figure_11(between: float) -> Data:
    medians = [1e-6 * 10 ** (between * layer / 9) for layer in range(10)]
    moments = {"p10": [m / 3 for m in medians], "p50": medians, "p90": [3 * m for m in medians]}
    runs = [[moments, moments] for _ in range(3)]
    return {"scale": "cpu", "tasks": [{"title": "x"}], "epochs": [1, 2], "layers": list("abcdefghij"), "runs": runs}


def test_figure_11_compares_decades() -> None:
    within = 2 * math.log10(3)  # and between layers seven ninths of the decades, from the second to the ninth
    assert verdicts("rotation-figure-11", figure_11(4.0)) == {"between": "holds"}
    assert verdicts("rotation-figure-11", figure_11((1.2 + within) * 9 / 7)) == {"between": "holds"}
    assert verdicts("rotation-figure-11", figure_11((0.8 + within) * 9 / 7)) == {"between": "does not hold"}
    mixed = figure_11(4.0)
    mixed["runs"][0] = figure_11(0.1)["runs"][0]
    assert verdicts("rotation-figure-11", mixed) == {"between": "not decided"}


def test_figure_12_finds_a_wrong_multiplier() -> None:
    data = measure_12(CPU, Records())
    assert set(verdicts("rotation-figure-12", data).values()) == {"holds"}
    data["multipliers"]["-0.3"][4] += 1e-6
    assert set(verdicts("rotation-figure-12", data).values()) == {"does not hold"}


def test_what_was_not_run_is_not_decided() -> None:
    rates = {f"rho=3^{e}": variant(e, [0.9 + 0.01 * k, 0.9, 0.9]) for k, e in enumerate(("-4", "-3", "-2.5", "-2"))}
    found = verdicts("rotation-further-runs", one_task(rates))
    assert (found["warmup"], found["none"]) == ("not decided", "not decided")


def test_the_plateau_is_the_loss_before_the_first_drop() -> None:
    record = Record({"schedule": "steps:0.2@0.8/0.9", "steps": 10}, Path(), {})
    curve = [{"step": step, "train_loss": None if step == 0 else 10.0 - step} for step in (0, 2, 4, 6, 8, 10)]
    record.__dict__["curve"] = curve
    assert plateau(record) == 2.0
    constant = dataclasses.replace(record, request={"schedule": "constant", "steps": 10})
    constant.__dict__["curve"] = curve
    assert plateau(constant) == 0.0


class Turned(Record):
    """A record whose layers' curves are given."""

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        assert quantity == "cosine_distance"
        values: list[float] = self.request["curves"][layer]
        return list(range(len(values))), values


def test_height_and_spread_are_of_the_last_finite_distances() -> None:
    curves = {"a": [0.0, 0.1], "b": [0.0, 0.3], "c": [0.0, 0.8], "d": [0.0, math.nan], "e": []}
    height, spread = turned(Turned({"curves": curves}, Path(), {"layers": list(curves)}))
    assert height == 0.3
    assert spread == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 3) / 0.4, abs=1e-4)
    assert turned(Turned({"curves": {"e": []}}, Path(), {"layers": ["e"]})) == (0.0, 0.0)


# Tasks and the runner


def test_one_layer_alone_has_a_gradient() -> None:
    task = rotation_mlps.one_layer(1, data="digits-as-mnist", per_class=2, test=10, width=16, depth=3)
    trained = [param.requires_grad for param in task.model().parameters()]
    assert trained == [False, True, False, False]
    with pytest.raises(UsageError, match="layer=3: must be 0 to 2"):
        rotation_mlps.one_layer(3, data="digits-as-mnist", per_class=2, width=16, depth=3)


def small_request(watch: str, **other: Any) -> dict[str, Any]:
    arguments = "layer=0, data='digits-as-mnist', per_class=5, test=20, width=16, depth=2"
    base = {
        "task": f"layerpace.recipes.rotation.mlps:one_layer({arguments})", "method": "adam", "lr": 0.01, "seed": 3,
        "steps": 4, "batch_size": 25, "schedule": "constant", "record_every": 2, "threads": 1, "watch": watch,
    }  # fmt: skip
    return base | other


def test_watched_second_moments_are_adams_own(tmp_path: Path) -> None:
    result = watched(small_request("second_moment"), tmp_path)
    assert result["steps"] == [1, 2, 4] and len(result["layers"]) == 1
    from layerpace.lab.batches import Batches

    task = rotation_mlps.one_layer(0, data="digits-as-mnist", per_class=5, test=20, width=16, depth=2)
    torch.manual_seed(3)
    model = task.model()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batches = Batches(task.data, torch.arange(50), 25, 3, None)
    for step in range(4):
        inputs, targets = batches(step)
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    (state,) = optimizer.state.values()
    wanted = torch.quantile(state["exp_avg_sq"].flatten(), torch.tensor([0.1, 0.5, 0.9]))
    last = result["second_moment"][-1]
    torch.testing.assert_close(
        torch.tensor([last[name][0] for name in ("p10", "p50", "p90")]), wanted, rtol=1e-3, atol=1e-12
    )


def test_watching_feedback_does_not_change_the_training(tmp_path: Path) -> None:
    feedback = watched(small_request("feedback"), tmp_path)
    moments = watched(small_request("second_moment"), tmp_path)
    assert len(feedback["silhouette"]) == 3 and all(-1 <= score <= 1 for score in feedback["silhouette"])
    assert (feedback["test_score"], feedback["train_score"]) == (moments["test_score"], moments["train_score"])


def test_watching_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="watch = 'loss': choose from second_moment, feedback"):
        watched(small_request("loss"), tmp_path)
