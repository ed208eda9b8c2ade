"""One rate for all: the plan of its cells, what it measures, and its verdicts, on made figures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from layerpace.lab.recipes.beyond import one_rate, one_rate_cells, one_rate_pictures, one_rate_runs
from layerpace.lab.recipes.recipe import Data, Scale
from layerpace.lab.recipes.records import Record, Records
from layerpace.lab.references import Reference


def test_cpu_scale_has_the_widths_depths_and_tasks() -> None:
    scale = Scale("cpu")
    found = one_rate_cells.families(list(one_rate_cells.cells(scale)))
    assert found == {
        "width": ["width x0.25", "width x0.5", "base", "width x2", "width x4"],
        "depth": ["base", "depth 8", "depth 16", "depth 32"],
        "task": ["base", "spirals", "digits-mlp", "percentdelta-cnn", "c10-cnn1-small", "digits-cnn"],
    }
    requests = one_rate_runs.runs(scale, Records())
    assert len(requests) == 13 * (6 * 7 + 8) * 3  # cells, rates of seven methods, seeds
    assert {r["seed"] for r in requests} == {0, 1, 2}
    assert {r["validation"] for r in requests} == {0.2}
    for method in one_rate_cells.METHODS:
        grid = one_rate_cells.rates(scale, method)
        ratios = [b / a for a, b in pairwise(grid)]
        assert ratios == pytest.approx([3] * len(ratios), rel=0.01)


def test_references_of_the_cells_name_functions_with_their_arguments() -> None:
    for cell in one_rate_cells.cells(Scale("cpu")).values():
        reference = Reference.of(cell["task"])
        assert reference.name in ("images", "spirals")


def test_spirals_are_balanced_and_alike_each_time() -> None:
    a, b = one_rate_cells.spirals(points=90), one_rate_cells.spirals(points=90)
    assert a.data.fingerprint() == b.data.fingerprint()
    assert a.data.train_targets.bincount().tolist() == [30] * 3
    assert len(a.data.test_inputs) == 45
    assert float(a.data.train_inputs.norm(dim=1).max()) <= 2
    assert a.model()(a.data.train_inputs[:4]).shape == (4, 3)


def finished(best: dict[str, int], ends: tuple[int, int] = (1, 1), records: Records | None = None) -> Records:
    """Smoke-scale records, on grids so far beyond the first ones, where a cell's best rate is one of the first two.

    `best` has the cells where it is not the lower one; higher numbers are rates above these two, lower ones below.
    """
    scale, records = Scale("smoke"), records or Records()
    for name, cell in one_rate_cells.cells(scale).items():
        for method in one_rate_runs.methods(scale):
            for place, lr in enumerate(one_rate_cells.rates(scale, method, *ends), -ends[0]):
                request = one_rate_runs.request(scale, method, cell, lr, 0)
                hit = place == best.get(name, 0)
                result: dict[str, Any] = {"status": "done", "validation_score": 0.7 + 0.2 * hit}
                result["test_score"] = 0.6 + 0.2 * hit
                if name == "spirals" and not hit:
                    result = {"status": "diverged", "test_score": None, "validation_score": None}
                records.add(request, Record(request, None, result))  # type: ignore[arg-type]
    return records


def by_cell(data: Data, kept: str) -> list[float]:
    """What SGD's one seed loses."""
    return [lost for (lost,) in one_rate_runs.losses(data, "SGD", kept)]


def test_what_is_lost_is_measured_from_each_cells_own_best_rate() -> None:
    data = one_rate_runs.measure(Scale("smoke"), finished({"depth 8": 1}))
    assert data["cells"] == ["base", "width x2", "depth 8", "spirals", "digits-cnn"]
    assert data["methods"]["SGD"]["own"] == [1, 1, 2, 1, 1]  # the grid has one more on each side
    assert data["methods"]["SGD"]["average"] == 1
    assert by_cell(data, "average") == pytest.approx([0, 0, 0.2, 0, 0])
    assert data["methods"]["SGD"]["test"][3] == [[0.3333], [0.8], [0.3333], [0.3333]]  # what diverged is a guess
    other = one_rate_runs.measure(Scale("smoke"), finished({"base": 1}))
    lost = by_cell(other, "base")
    assert lost == pytest.approx([0, 0.2, 0.2, 0.8 - 1 / 3, 0.2], abs=1e-4)


def test_the_badly_scaled_network_is_in_no_claim_and_chooses_no_rate() -> None:
    scale, records = Scale("smoke"), finished({})
    cell, grid = one_rate_cells.cells(scale)["digits-cnn"], one_rate_cells.rates(scale, "SGD", 1, 1)
    request = one_rate_runs.request(scale, "SGD", cell, grid[2], 0)
    result = {"status": "done", "validation_score": 9.0, "test_score": 9.0}  # would outweigh all others
    records.add(request, Record(request, None, result))  # type: ignore[arg-type]
    data = one_rate_runs.measure(scale, records)
    assert (data["methods"]["SGD"]["own"][-1], data["methods"]["SGD"]["average"]) == (2, 1)
    assert data["extra"] == ["digits-cnn"]
    values = list(range(5))
    assert one_rate_runs.counted(data, values) == [0, 1, 2, 3]
    assert one_rate_runs.counted(data, values, "base") == [1, 2, 3]


def test_a_grid_grows_where_a_best_rate_is_its_last_one() -> None:
    scale = Scale("smoke")
    first = {method: one_rate_cells.rates(scale, method) for method in one_rate_runs.methods(scale)}

    def asked(records: Records) -> set[float]:
        return {r["lr"] for r in one_rate_runs.runs(scale, records) if r["method"] == "sgd"}

    assert asked(Records()) == set(first["SGD"])
    high = dict.fromkeys(one_rate_cells.cells(scale), 1)
    records = finished(high, (0, 0))
    assert asked(records) == {*first["SGD"], 0.9}  # 3 times the highest; at the lower end nothing is best
    finished({**high, "width x2": 0}, (0, 0), records)
    assert asked(records) == {0.0333, *first["SGD"], 0.9}
    finished(high | {"base": 2}, (1, 1), records)
    assert asked(records) == {0.0333, *first["SGD"], 0.9}  # one more at the smallest scale, no further
    data = one_rate_runs.measure(scale, records)
    assert data["methods"]["SGD"]["at_end"] == ["base"]


def test_a_grid_grows_by_two_at_most() -> None:
    scale = Scale("cpu")

    def grow(top: bool) -> list[float]:
        """AdamW's grid, when scores rise to one side and all that is asked for is answered."""
        records = Records()
        while new := [r for r in one_rate_runs.runs(scale, records) if r not in records]:
            for request in new:
                value = math.log10(request["lr"]) * (1 if top else -1) / 100 + 0.5
                result = {"status": "done", "validation_score": value, "test_score": value}
                records.add(request, Record(request, None, result))  # type: ignore[arg-type]
        return list(one_rate_runs.measure(scale, records)["methods"]["AdamW"]["lr"])

    first = one_rate_cells.rates(scale, "AdamW")
    assert grow(top=True) == [*first, 0.09, 0.27]
    assert grow(top=False)[2:] == first


def test_of_equal_scores_the_middle_one_is_the_best() -> None:
    assert one_rate_runs.best_place([0.1, 0.1, 0.1, 0.1, 0.1]) == 2
    assert one_rate_runs.best_place([0.9, 0.8, 0.9, 0.8, 0.1]) == 2
    assert one_rate_runs.best_place([0.9, 0.8, 0.8]) == 0


def made(lost: dict[str, float], seeds: tuple[float, ...] = (0.0, 0.001, -0.001)) -> Data:
    """Six cells; a method loses about so much in each when it keeps its one rate, and in each seed so much more.

    And an extra one, where every method but SGD and AdamW loses all: it must not matter.
    """
    wobble = [0.0, 0.01, -0.01, 0.005, -0.005, 0.0]
    methods = {
        name: {
            "lr": [0.1, 0.3],
            "validation": [[0.9, 0.8]] * 7,
            "test": [
                *([[0.9 - lost[name] * (1 + seed) + step for seed in seeds], [0.9] * len(seeds)] for step in wobble),
                [[0.9 * (name in one_rate.PLAIN)] * len(seeds), [0.9] * len(seeds)],
            ],
            "own": [1] * 7, "average": 0, "base": 0, "at_end": ["depth 8"] if name == "SGD" else [],
        }
        for name in lost
    }  # fmt: skip
    names = ["base", "width x0.5", "width x2", "depth 8", "depth 16", "spirals", "digits-cnn"]
    return {"methods": methods, "cells": names, "extra": ["digits-cnn"], "seeds": len(seeds)}


def verdicts(lost: dict[str, float]) -> dict[str, str]:
    (recipe,) = one_rate.RECIPES
    return {finding.claim.key: finding.verdict for finding in recipe.findings(made(lost))}


def test_verdicts_follow_the_losses() -> None:
    layerwise = dict.fromkeys(one_rate_cells.LAYERWISE, 0.02)
    spread = {name: 0.02 + 0.001 * place for place, name in enumerate(layerwise)}
    assert set(verdicts({**spread, "SGD": 0.2, "AdamW": 0.1}).values()) == {"holds"}
    assert set(verdicts({**spread, "SGD": 0.001, "AdamW": 0.002}).values()) == {"does not hold"}
    found = verdicts({"LAMB": 0.02, "SGD": 0.2, "AdamW": 0.1})
    assert (found["lamb-sgd"], found["lars-sgd"]) == ("holds", "not decided")


def test_seeds_decide_however_alike_their_cells_are() -> None:
    (recipe,) = one_rate.RECIPES
    lost = {"LAMB": 0.02, "SGD": 0.03, "AdamW": 0.1}
    for seeds, verdict in (((0.0, 0.1, -0.1), "holds"), ((0.0, 2.0, -2.0), "not decided"), ((0.0,), "not decided")):
        found = {finding.claim.key: finding.verdict for finding in recipe.findings(made(lost, seeds))}
        assert found["lamb-sgd"] == verdict, seeds


def test_the_base_cell_is_not_among_those_that_keep_its_rate() -> None:
    """Its own loss is 0 for every method."""
    (recipe,) = one_rate.RECIPES
    data = made({"LAMB": 0.02, "SGD": 0.2, "AdamW": 0.1})
    data["methods"]["SGD"]["test"][0] = [[0.0] * 3, [0.9] * 3]
    found = {finding.claim.key: finding.ours for finding in recipe.findings(data)}
    assert "2.00 against 20.00 points: -18.00 [-18.04, -17.96]" in found["base-sgd"]
    assert "against 31.67" in found["all-sgd"]


def test_findings_say_which_best_rates_are_ends_of_the_grid() -> None:
    (recipe,) = one_rate.RECIPES
    found = {f.claim.key: f.ours for f in recipe.findings(made({"LAMB": 0.02, "SGD": 0.2, "AdamW": 0.1}))}
    assert found["lamb-sgd"].endswith("; cells best at an end of the grid: SGD 1")
    assert "end of the grid" not in found["lamb-adamw"]


def test_the_figure_has_a_panel_for_each_family() -> None:
    figure = one_rate_pictures.draw(made({"SGD": 0.2, "AdamW": 0.1, "LAMB": 0.01}))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["width", "depth", "task"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["x0.5", "x1", "x2"]
    lines: dict[Any, Any] = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    assert list(lines["SGD"]) == pytest.approx([20.0, 19.5, 20.5])
    assert math.log(figure.axes[4].get_ylim()[1]) > 0
    assert figure.axes[4].get_xticklabels()[0].get_text() == "SGD\n1 at an end"
    tasks = [text.get_text() for text in figure.axes[2].get_xticklabels()]
    assert tasks[:2] == ["mnist-mlp", "spirals"]
    assert tasks[2].endswith("not counted)")
