"""One rate for all: the plan of its cells, what it measures, and its verdicts, on made figures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from layerpace.lab.references import Reference
from layerpace.recipes.beyond import one_rate, one_rate_cells
from layerpace.recipes.recipe import Data, Scale
from layerpace.recipes.records import Record, Records


def test_cpu_scale_has_the_widths_depths_and_tasks() -> None:
    scale = Scale("cpu")
    found = one_rate_cells.families(list(one_rate_cells.cells(scale)))
    assert found == {
        "width": ["width x0.25", "width x0.5", "base", "width x2", "width x4"],
        "depth": ["base", "depth 8", "depth 16", "depth 32"],
        "task": ["base", "spirals", "digits-cnn", "percentdelta-cnn", "c10-cnn1-small"],
    }
    requests = one_rate.runs(scale, Records())
    assert len(requests) == 12 * (6 * 7 + 8) * 3  # cells, rates of seven methods, seeds
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


def finished(best: dict[str, int]) -> Records:
    """Smoke-scale records where a cell's scores are best at a rate: `best` has the cells whose best one is not 0."""
    scale, records = Scale("smoke"), Records()
    for name, cell in one_rate_cells.cells(scale).items():
        for method in one_rate.methods(scale):
            for place, lr in enumerate(one_rate_cells.rates(scale, method)):
                request = one_rate.request(scale, method, cell, lr, 0)
                hit = place == best.get(name, 0)
                result: dict[str, Any] = {"status": "done", "validation_score": 0.7 + 0.2 * hit}
                result["test_score"] = 0.6 + 0.2 * hit
                if name == "spirals" and not hit:
                    result = {"status": "diverged", "test_score": None, "validation_score": None}
                records.add(request, Record(request, None, result))  # type: ignore[arg-type]
    return records


def test_what_is_lost_is_measured_from_each_cells_own_best_rate() -> None:
    data = one_rate.measure(Scale("smoke"), finished({"depth 8": 1}))
    assert data["cells"] == ["base", "width x2", "depth 8", "spirals"]
    assert data["methods"]["SGD"]["own"] == [0, 0, 1, 0]
    assert data["methods"]["SGD"]["average"] == 0
    assert one_rate.losses(data, "SGD", "average") == pytest.approx([0, 0, 0.2, 0])
    assert data["methods"]["SGD"]["test"][3] == [0.8, round(1 / 3, 4)]  # diverged: a guess among three arms
    other = one_rate.measure(Scale("smoke"), finished({"base": 1}))
    assert one_rate.losses(other, "SGD", "base") == pytest.approx([0, 0.2, 0.2, 0.8 - 1 / 3], abs=1e-4)


def made(lost: dict[str, float]) -> Data:
    """Six cells; a method loses about so much in each when it keeps its one rate."""
    wobble = [0.0, 0.01, -0.01, 0.005, -0.005, 0.0]
    methods = {
        name: {
            "lr": [0.1, 0.3],
            "validation": [[0.9, 0.8]] * 6,
            "test": [[0.9 - lost[name] + step, 0.9] for step in wobble],
            "own": [1] * 6, "average": 0, "base": 0,
        }
        for name in lost
    }  # fmt: skip
    names = ["base", "width x0.5", "width x2", "depth 8", "depth 16", "spirals"]
    return {"methods": methods, "cells": names, "seeds": 3}


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


def test_the_figure_has_a_panel_for_each_family() -> None:
    figure = one_rate.draw(made({"SGD": 0.2, "AdamW": 0.1, "LAMB": 0.01}))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["width", "depth", "task"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["x0.5", "x1", "x2"]
    lines: dict[Any, Any] = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    assert list(lines["SGD"]) == pytest.approx([20.0, 19.5, 20.5])
    assert math.log(figure.axes[4].get_ylim()[1]) > 0
