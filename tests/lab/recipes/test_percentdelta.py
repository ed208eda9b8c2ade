"""PercentDelta's figures 1 and 2: what is run, how the claims are decided, and what the pictures hold."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from matplotlib.patches import Rectangle

from layerpace.lab.recipes.percentdelta import accuracy as figure_2
from layerpace.lab.recipes.percentdelta import figure_2_runs as plan
from layerpace.lab.recipes.percentdelta import updates as figure_1
from layerpace.lab.recipes.percentdelta.common import TUNING_SEED
from layerpace.lab.recipes.percentdelta.figure_2_picture import BEST, draw, smoothed
from layerpace.lab.recipes.recipe import Data, Request, Scale
from layerpace.lab.recipes.records import Record, Records

CPU = Scale("cpu")


def finished(request: Request, score: float | None = 0.9, accuracy: float = 0.9) -> Record:
    """A run as if it had been made: an evaluation every so often, all with one accuracy."""
    status = "diverged" if score is None else "done"
    record = Record(request, Path(), {"status": status, "validation_score": score, "test_score": accuracy})
    points = range(0, request["steps"] + 1, request["eval_every"])
    record.__dict__["curve"] = [{"step": step, "test_score": accuracy} for step in points]
    return record


def finish(records: Records, scale: Scale, scores: dict[tuple[str, float, str], float | None]) -> int:
    """Make all that the recipe asks for until it asks no more; the stages that it took."""
    stages = 0
    while new := [one for one in plan.runs(scale, records) if one not in records]:
        for one in new:
            name = (one["method"], one["lr"], one["schedule"])
            records.add(one, finished(one, scores.get(name, 0.5)))
        stages += 1
    return stages


LARS = {name: f"lars:trust_coefficient=1,momentum={name}" for name in ("0.9", "0.5", "0")}
INSIDE: dict[tuple[str, float, str], float | None] = {  # the best of each row is in the middle
    ("percent-delta:momentum=0.9", 0.03, "linear:0.001"): 0.6,  # m times the steps is 1, as in the whole run
    ("adagrad", 0.01, "constant"): 0.6,
    ("adam", 0.001, "constant"): 0.6,
    (LARS["0.9"], 0.01, "linear:0.01"): 0.6,
}


def chosen(requests: list[Request]) -> dict[tuple[str, float, str], int]:
    """The settings of the whole runs, and how many there are of each."""
    return Counter((one["method"], one["lr"], one["schedule"]) for one in requests if one["steps"] == 5000)


def test_momentum_and_settings_are_chosen_by_validation_alone() -> None:
    records = Records()
    scores = INSIDE | {
        ("percent-delta:momentum=0", 0.03, "linear:0.001"): 0.7,
        ("percent-delta:momentum=0", 0.03, "linear:0.002"): 0.8,
        ("adam", 0.003, "constant"): None,
        (LARS["0.5"], 0.01, "linear:0.01"): 0.8,
        (LARS["0"], 0.01, "linear:0.01"): None,
        (LARS["0.9"], 0.03, "linear:0.01"): 0.9,  # with a momentum that is not the best at the first rate
    }
    assert list(plan.rows(CPU, records)) == ["AdaGrad", "Adam"]
    assert finish(records, CPU, scores) == 3  # momenta and the others; PercentDelta's and LARS's settings; their best
    rows = plan.rows(CPU, records)
    assert tuple(rows) == plan.ROWS
    assert {setting.method for setting in rows["PercentDelta"]} == {"percent-delta:momentum=0"}
    assert {setting.method for setting in rows["LARS"]} == {LARS["0.5"]}
    assert {name: len(settings) for name, settings in rows.items()} == dict.fromkeys(plan.ROWS, 4)
    assert chosen(plan.runs(CPU, records)) == {
        ("percent-delta:momentum=0", 0.03, "linear:0.0004"): 3,
        ("adagrad", 0.01, "constant"): 3,
        ("adam", 0.001, "constant"): 3,
        (LARS["0.5"], 0.01, "linear:0.01"): 3,
    }


def test_a_row_goes_on_while_its_best_is_at_an_end_by_two_settings_at_most() -> None:
    records = Records()
    scores = INSIDE | {
        ("percent-delta:momentum=0.9", 0.03, "linear:0.0005"): 0.7,  # one further, which is worse
        ("adagrad", 0.1, "constant"): 0.7,
        ("adagrad", 0.3, "constant"): 0.8,
        ("adagrad", 1.0, "constant"): 0.9,  # still at the end
        ("adam", 1e-4, "constant"): 0.7,
        ("adam", 3e-5, "constant"): 0.8,
    }
    finish(records, CPU, scores)
    rows = plan.rows(CPU, records)
    swept = {name: [setting.swept for setting in settings] for name, settings in rows.items()}
    assert swept == {
        "PercentDelta": [0.25, 0.5, 1.0, 2.0, 5.0],
        "AdaGrad": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
        "Adam": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3],
        "LARS": [0.003, 0.01, 0.03, 0.1],
    }
    places = {name: plan.tuned(CPU, records, settings) or 0 for name, settings in rows.items()}
    ends = {name: plan.at_end(settings, places[name]) for name, settings in rows.items()}
    assert ends == {"PercentDelta": False, "AdaGrad": True, "Adam": False, "LARS": False}
    assert set(chosen(plan.runs(CPU, records))) == {
        ("percent-delta:momentum=0.9", 0.03, "linear:0.0001"),
        ("adagrad", 1.0, "constant"),
        ("adam", 3e-5, "constant"),
        (LARS["0.9"], 0.01, "linear:0.01"),
    }
    data = figure_2.measure(CPU, records)
    assert {name: row["at_end"] for name, row in data["rows"].items()} == ends
    found = figure_2.judge(data)[0].ours
    assert "AdaGrad lr 1, at an end of its range (90.00%)" in found and found.count("at an end") == 1
    assert [len(axes.lines) for axes in draw(data).axes[:12]] == [5] * 3 + [6] * 6 + [4] * 3
    assert len(json.dumps(data, indent=1)) < 75_000  # of 21 settings; some 60 kB of 16
    assert plan.size(Scale("paper")).extensions == 2 and plan.size(Scale("smoke")).extensions == 0


def test_shares_are_a_factor_of_two_apart_and_rates_of_three() -> None:
    share, rate = plan.RANGES["PercentDelta"][-1], plan.RANGES["LARS"][-1]
    assert (share.swept, share.further(True).swept, share.further(False).swept) == (5.0, 10.0, 2.5)
    assert (rate.swept, rate.further(True).swept, rate.further(False).swept) == (0.1, 0.3, 0.03)
    assert share.further(True).schedule("whole", plan.CPU) == "linear:0.002" and share.further(True).lr == share.lr


def test_a_row_whose_settings_all_diverge_goes_on_downwards() -> None:
    records = Records()
    finish(records, CPU, INSIDE | {("adam", lr, "constant"): None for lr in (1e-4, 3e-4, 1e-3, 3e-3)})
    assert [setting.swept for setting in plan.rows(CPU, records)["Adam"]] == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]


def test_no_setting_is_chosen_on_a_seed_or_an_image_that_claims_are_tested_with() -> None:
    records = Records()
    finish(records, CPU, INSIDE)
    requests = plan.runs(CPU, records)
    tuning = [one for one in requests if "validation" in one]
    assert {one["seed"] for one in tuning} == {TUNING_SEED}
    whole = [one for one in requests if one["steps"] == 5000]
    assert {one["seed"] for one in whole} == {0, 1, 2} and not any("validation" in one for one in whole)
    early = {one["seed"] for one in requests if one["steps"] == 200}
    assert early == {*range(5), TUNING_SEED}
    assert all(step % plan.CPU.eval_every["early"] == 0 for step in plan.MARKS)


def test_paper_scale_has_the_papers_sizes() -> None:
    records = Records()
    scores = INSIDE | {("percent-delta:momentum=0.9", 0.03, "linear:0.0002"): 0.6}
    finish(records, Scale("paper", "cpu"), scores)
    requests = plan.runs(Scale("paper", "cpu"), records)
    assert {one["steps"] for one in requests} == {200, 5000}
    assert {(one["batch_size"], one["eval_every"], one["dtype"]) for one in requests} == {(500, 5, "fp32")}
    beside = [one for one in requests if "lars" in one["method"] and one["schedule"] != "linear:0.01"]
    assert [(one["lr"], one["schedule"], one["method"]) for one in beside] == [(0.003, "linear:0.0002", LARS["0.9"])]
    assert len(requests) == 4 + 1 + 2 * 16 + 4 * (5 + 5)  # further momenta, LARS beside, settings, the best


def test_a_diverged_run_counts_as_chance_from_where_it_stopped() -> None:
    record = finished({"steps": 10, "eval_every": 5}, None, 0.9)
    record.curve.pop()
    assert figure_2.accuracies(record, (5, 10)) == [0.9, 0.1]
    assert figure_2.mean_line([record, finished({"steps": 10, "eval_every": 5})])["mean"] == [0.9, 0.9, 0.5]


def made_rows(percent_delta: list[float], others: list[float]) -> Data:
    """Data of figure 2 with these accuracies, by seed, at all marks and at the end."""

    def row(values: list[float], method: str) -> dict[str, Any]:
        line = {"step": [0, 100, 200], "accuracy": [0.1, 0.5, 0.9]}
        seeds = {"step": [0, 2500, 5000], "mean": [0.1, 0.9, 0.99], "low": [0.1, 0.8, 0.98], "high": [0.1, 0.95, 1.0]}
        settings = [
            {"label": f"lr {k}", "method": method, "validation": 0.9}
            | ({"early": line, "curve": line} if k != 1 else {})
            for k in range(4)
        ]
        settings[2]["validation"] = None
        found = {"settings": settings, "best": 1, "at_end": False, "early": seeds, "whole": seeds}
        return found | {"marks": [[value] * 4 for value in values], "end": values}

    methods = {"PercentDelta": "percent-delta:momentum=0", "LARS": LARS["0.5"]}
    rows = {
        name: row(percent_delta if name == "PercentDelta" else others, methods.get(name, "adam")) for name in plan.ROWS
    }
    return {
        "scale": "cpu",
        "steps": {"tuning": 1000, "early": 200, "whole": 5000},
        "marks": [30, 50, 100, 200],
        "momenta": {name: dict.fromkeys(labels, 0.9) for name, labels in plan.MOMENTA.items()},
        "slow_lars": None,
        "rows": rows,
    }


@pytest.mark.parametrize(
    ("percent_delta", "verdict"),
    [
        ([0.95, 0.96, 0.94], "holds"),
        ([0.85, 0.86, 0.84], "does not hold"),
        ([0.95, 0.85, 0.90], "not decided"),
    ],
)
def test_figure_2_is_judged_by_paired_differences(percent_delta: list[float], verdict: str) -> None:
    found = figure_2.RECIPE.findings(made_rows(percent_delta, [0.9, 0.9, 0.9]))
    assert [finding.verdict for finding in found] == [verdict, verdict]
    assert "PercentDelta's momentum: none" in found[0].ours and "LARS's momentum: heavy ball, 0.5" in found[0].ours
    assert "at an end" not in found[0].ours and "instead of m = 0.01: diverged" in found[1].ours


def test_one_better_method_is_enough_against_the_claim() -> None:
    data = made_rows([0.95, 0.96, 0.94], [0.9, 0.9, 0.9])
    data["rows"]["LARS"]["end"] = [0.99, 0.99, 0.99]
    assert [finding.verdict for finding in figure_2.judge(data)] == ["holds", "does not hold"]


def test_figure_2_has_five_rows_and_three_columns_and_the_best_in_red() -> None:
    figure = draw(made_rows([0.95, 0.96], [0.9, 0.9]))
    assert len(figure.axes) == 15
    rows = [figure.axes[3 * k : 3 * k + 3] for k in range(5)]
    for row in rows[:4]:
        for axes in row:
            assert sum(line.get_color() == BEST for line in axes.lines) == 1 and len(axes.lines) == 4
    assert len(rows[4][0].lines) == 4
    assert rows[0][0].get_ylim() == (0.5, 1.0) and rows[0][0].get_xlim() == (0, 200)
    assert rows[0][1].get_xlim() == rows[4][2].get_xlim() == (0, 5000)
    legend = rows[1][0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["lr 0", "lr 2 (diverged)", "lr 3", "lr 1"]


def test_smoothing_keeps_ends_and_straight_lines() -> None:
    steps = list(range(200))
    assert smoothed(steps, [0.5 * step for step in steps]) == pytest.approx([0.5 * step for step in steps])
    rough = [float(step % 2) for step in steps]
    assert smoothed(steps, rough)[0] == 0.0 and smoothed(steps, rough)[100] == pytest.approx(0.5, abs=0.05)


def made_updates(percent_delta: float, sgd: float) -> Data:
    """Data of figure 1: three seeds whose layers' relative updates span so many decades."""

    def seeds(decades: float) -> list[list[list[float]]]:
        wider = (decades, decades * 1.02, decades * 0.98)
        return [[[1e-2, 1e-2, 1e-2 * 10**-seed, 1e-2]] * 4 for seed in wider]

    layers = ["conv1", "conv2", "fc1", "fc2"]
    found = {"PercentDelta": seeds(percent_delta), "SGD": seeds(sgd)}
    return {"scale": "cpu", "steps": [0, 15, 30, 45], "layers": layers, "relative_update_l1": found}


@pytest.mark.parametrize(
    ("percent_delta", "sgd", "verdicts"),
    [
        (0.2, 3.0, ["holds", "holds"]),
        (0.9, 1.0, ["does not hold", "does not hold"]),
        (0.5, 2.0, ["not decided", "not decided"]),
    ],
)
def test_figure_1_is_judged_by_the_decades_between_layers(
    percent_delta: float, sgd: float, verdicts: list[str]
) -> None:
    found = figure_1.RECIPE.findings(made_updates(percent_delta, sgd))
    assert [finding.verdict for finding in found] == verdicts
    assert f"{sgd:+.2f}" in found[1].ours


def test_figure_1_takes_the_worst_step_of_percent_delta() -> None:
    data = made_updates(0.1, 3.0)
    data["relative_update_l1"]["PercentDelta"] = [
        [[1.0, 1.0, 1.0, 0.1 if k == 2 else 1.0] for k in range(4)] for _ in range(3)
    ]
    assert figure_1.judge(data)[0].verdict == "does not hold"


class Updates:
    """A run of two layers that diverges at step 31: nothing at 45, and no number at 30 of one layer."""

    layers = ("conv", "fc")

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        assert quantity == "relative_update_l1"
        return [1, 15, 30], [0.0, 0.25, 0.5 if layer == "conv" else math.inf]


def test_a_run_that_diverges_leaves_the_claim_on_its_method_open() -> None:
    rows = figure_1.by_step(cast("Record", Updates()), [1, 15, 30, 45])
    assert rows == [[figure_1.STILL] * 2, [0.25, 0.25], None, None]
    data = made_updates(0.2, 3.0)
    data["relative_update_l1"]["SGD"][1][2:] = [None, None]
    equal, apart = figure_1.RECIPE.findings(data)
    assert (equal.verdict, apart.verdict) == ("holds", "not decided")
    assert "1 of 3 runs diverged" in apart.ours and "diverged" not in equal.ours
    data["relative_update_l1"]["SGD"] = [[[0.1] * 4, None, None, None]] * 3
    assert figure_1.judge(data)[1].ours == "all 3 runs diverged"
    bars = [len([bar for bar in axes.patches if isinstance(bar, Rectangle)]) for axes in figure_1.draw(data).axes]
    assert bars == [8, 4, 4, 4]


def test_figure_1_is_tested_on_seeds_that_its_thresholds_were_not_set_by() -> None:
    for scale in (CPU, Scale("paper", "cuda")):
        for name in figure_1.METHODS:
            own = [one["seed"] for one in figure_1.runs(scale, Records()) if one["method"] == figure_1.METHODS[name][0]]
            assert own == list(range(10, 18))
    assert {one["seed"] for one in figure_1.runs(Scale("smoke"), Records())} == {0, 1}


def test_figure_1_records_the_four_steps_and_draws_a_panel_each() -> None:
    requests = figure_1.runs(CPU, Records())
    assert len(requests) == 16
    assert {(one["steps"], one["record_every"], one["schedule"]) for one in requests} == {(45, 15, "constant")}
    figure = figure_1.draw(made_updates(0.2, 3.0))
    assert [axes.get_title() for axes in figure.axes] == ["step 0", "step 15", "step 30", "step 45"]
    heights = [bar.get_height() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    assert figure.axes[0].get_yscale() == "log" and len(heights) == 8
    assert math.log10(max(heights) / min(heights)) == pytest.approx(3.0)  # of a geometric mean
    assert "geometric mean" in cast("Any", figure).get_suptitle()
