"""A recipe whose runs cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from layerpace.lab.recipes.recipe import Claim, Data, Finding, Recipe, Request, Scale
from layerpace.lab.recipes.records import Records
from layerpace.lab.recipes.statistics import above, difference

RUNNER = """
def run(config, folder):
    if config.get("raises"):
        raise ValueError("was to fail")
    score = config["rate"] * (2 if config["method"] == "good" else 1) + config.get("seed", 0) / 100
    return {"test_score": score, "status": "done"}
"""
CLAIM = Claim("better", "figure 1", "good is better", "95% interval of the difference over 3 seeds above 0", "1 to 2")


def recipe(folder: Path, **more: Any) -> Recipe:
    """Finds the best rate of each method, then makes it with three seeds."""
    path = folder / "toy.py"
    path.write_text(RUNNER)

    def sweep(method: str) -> list[Request]:
        return [{"method": method, "rate": rate, **more} for rate in (1, 2, 3)]

    def final(method: str, records: Records) -> list[Request]:
        best = max(records.of(sweep(method)), key=lambda record: record.result["test_score"])
        return [{"method": method, "rate": best.request["rate"], "seed": seed} for seed in (1, 2, 3)]

    def runs(scale: Scale, records: Records) -> Sequence[Request]:
        methods = ("good", "bad")
        found = [request for method in methods for request in sweep(method)]
        for method in methods:
            if records.have(sweep(method)):
                found += final(method, records)
        return found

    def measure(scale: Scale, records: Records) -> Data:
        methods = ("good", "bad")
        return {m: [r.result["test_score"] for r in records.of(final(m, records))] for m in methods} | {
            "scale": scale.name
        }

    def judge(data: Data) -> Sequence[Finding]:
        found = difference(data["good"], data["bad"])
        return [Finding(CLAIM, above(found), found.text())]

    def draw(data: Data) -> Figure:
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot(data["good"])
        return figure

    setup = {"smoke": "Three seeds.", "cpu": "Three seeds | on a CPU.", "paper": "All of it."}
    return Recipe(
        "toy", "beyond", ("figure 1",), "A toy", (CLAIM,), setup, runs, measure, judge, draw, runner=f"{path}:run"
    )
