"""The benchmark harness: that it runs to the end and leaves nothing out, never what its times are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import memory, monitors, plots, traffic
from benchmarks.measure import Effort, Race, figures
from benchmarks.methods import BY_NAME, METHODS, UNIT, Method
from benchmarks.shapes import SETS
from benchmarks.sweeps import SWEPT

import layerpace as lp

ROOT = Path(__file__).parents[2]
PEERS = {"timm": ("timm Lamb", "timm Lars"), "pytorch_optimizer": ("pytorch_optimizer Lamb", "pytorch_optimizer LARS")}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """results.json, what was printed, and the folder of a run of `python -m benchmarks --quick`."""
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text()), done.stdout, out


@pytest.mark.slow  # the whole benchmark
def test_every_method_is_measured_on_every_set_or_named_with_the_reason(quick: Any) -> None:
    results, printed, _ = quick
    assert set(results["steps"]) == set(SETS)
    for key, found in results["steps"].items():
        measured, skipped = set(found["methods"]), set(found["skipped"])
        assert measured | skipped == set(BY_NAME) and not measured & skipped, key
        for name, row in found["methods"].items():
            assert all(row[column] > 0 for column in ("ms", "q1", "q3", "ratio", "ratio_by_round", "gb_per_s")), name
            assert row["q1"] <= row["ms"] <= row["q3"]
        for name, reason in found["skipped"].items():
            assert reason and f"not measured: {name}: {reason}" in printed
        for package, names in PEERS.items():
            there = importlib.util.find_spec(package) is not None
            assert all((name in measured) == there for name in names), key
            assert there or all("make bench-peers" in found["skipped"][name] for name in names)
        ours = {method.name for method in METHODS if method.sets is None} - {
            n for names in PEERS.values() for n in names
        }
        assert ours <= measured, key
        assert {m.name for m in METHODS if m.sets and key in m.sets} <= measured, key


@pytest.mark.slow  # the whole benchmark
def test_the_units_ratio_is_one(quick: Any) -> None:
    results, _, _ = quick
    rows = [found["methods"][UNIT] for found in results["steps"].values()]
    assert all(row["ratio"] == 1 and row["ratio_by_round"] == 1 for row in rows)
    assert all(ratio == 1 for found in results["sweeps"].values() for ratio in found["methods"][UNIT]["ratio"])


@pytest.mark.slow  # the whole benchmark
def test_sweeps_have_all_points_and_pictures(quick: Any) -> None:
    results, _, out = quick
    assert set(results["sweeps"]) == {"layers", "size", "threads-S1", "threads-S4"}
    for found in results["sweeps"].values():
        assert found["x"] == sorted(set(found["x"])) and found["x"] and not found["skipped"]
        assert tuple(found["methods"]) == SWEPT
        for rows in found["methods"].values():
            assert all(len(values) == len(found["x"]) and min(values) > 0 for values in rows.values())
    for name in ("layers.png", "size.png", "threads.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # the whole benchmark
def test_the_results_say_where_they_were_measured(quick: Any) -> None:
    results, _, _ = quick
    assert results["command"].startswith("python -m benchmarks --quick")
    assert results["date"] and results["machine"]["cpu"] and results["machine"]["cores"] == os.cpu_count()
    assert results["versions"]["torch"] == torch.__version__ and results["versions"]["layerpace"] == lp.__version__
    assert results["settings"]["threads"] >= 1 and results["ceiling"]["update"] > 0 and results["ceiling"]["source"]


def test_figures_by_hand() -> None:
    found = figures({UNIT: [1.0, 2.0, 4.0], "x": [3.0, 2.0, 2.0]})
    assert (found["x"].ms, found["x"].q1, found["x"].q3) == (2000.0, 2000.0, 2500.0)
    assert found["x"].ratio == 1.0  # 2 / 2
    assert found["x"].ratio_by_round == 1.0  # of 3, 1, 0.5
    assert figures({UNIT: [1.0, 2.0, 4.0], "x": [2.0, 3.0, 3.0]})["x"].ratio_by_round == 1.5  # of 2, 1.5, 0.75


def test_groups_fit_and_lose_nobody() -> None:
    entries, plain = 1000, [method for method in METHODS if method.sets is None]
    tight = memory.needed([BY_NAME[UNIT], BY_NAME["timm Lamb"]], entries)
    for budget in (tight, 2 * tight, 100 * tight):
        found, skipped = memory.groups(plain, entries, budget)
        assert all(group[0].name == UNIT and memory.needed(group, entries) <= budget for group in found)
        names = [UNIT, *(method.name for group in found for method in group[1:])]
        assert sorted(names) == sorted(method.name for method in plain) and not skipped
    assert len(found) == 1
    assert "timm Lamb" in memory.groups(plain, entries, tight - 1)[1]
    with pytest.raises(MemoryError, match=UNIT):
        memory.groups(plain, entries, 1)


def test_the_second_pass_is_free_only_in_the_cache() -> None:
    small, large = 100, 1000
    assert traffic.LAMB.per_entry([small], cache=small * 28) == 28
    assert traffic.LAMB.per_entry([small + 1], cache=small * 28) == 40
    assert traffic.LAMB.per_entry([small, large], cache=small * 28) == pytest.approx((100 * 28 + 1000 * 40) / 1100)


def sgd(lr: float, **options: Any) -> Method:
    return Method("x", lambda p: torch.optim.SGD(p, lr=lr), traffic.SGD_MOMENTUM, 0, **options)


def test_unhealthy_runs_are_refused() -> None:
    unit = BY_NAME[UNIT]
    with pytest.raises(RuntimeError, match="drifted"):
        Race([(30, 30)], [unit, sgd(50.0)]).run(Effort(2, 1))
    with pytest.raises(RuntimeError, match="a weight got inf, nan or denormal"):
        Race([(30, 30)], [unit, sgd(float("inf"))]).run(Effort(2, 1))
    race = Race([(30, 30)], [unit])
    race.run(Effort(2, 1))
    next(iter(race.optimizers[UNIT].state.values()))["exp_avg"][0, 0] = 1e-40
    with pytest.raises(RuntimeError, match=f"exp_avg of {UNIT} got inf, nan or denormal"):
        race.check_health()
    with pytest.raises(ValueError, match="must take part"):
        Race([(30, 30)], [sgd(1e-6)])


class Writer(torch.optim.SGD):
    """Writes p.grad, as some optimizers do."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for p in self.param_groups[0]["params"]:
            p.grad.mul_(2)


def test_written_gradients_are_put_back_or_refused() -> None:
    for marked in (True, False):
        method = Method("x", lambda p: Writer(p, lr=1e-6), traffic.SGD_MOMENTUM, 0, writes_gradients=marked)
        race = Race([(30, 30)], [BY_NAME[UNIT], method])
        if marked:
            race.run(Effort(2, 1))
        else:
            with pytest.raises(RuntimeError, match="wrote p"):
                race.run(Effort(2, 1))


def test_the_cost_of_watching_is_spread_over_the_steps() -> None:
    shapes = [(40, 25), (7,)]
    ours = monitors.measure(BY_NAME["LAMB"].make, shapes, 1, Effort(5, 1))
    assert min(ours.alone, ours.recorded, ours.reading, ours.rotation) > 0
    cost = monitors.Cost(alone=10.0, recorded=15.0, by_round=1.5, reading=1.0, rotation=5.0, every=10)
    assert cost.ratio == pytest.approx(1 + 0.05 + 0.01 + 0.0025)


def test_labels_keep_their_distance() -> None:
    heights = plots.spread([0.1, 0.11, 0.12, 0.9], gap=0.05)
    assert heights == pytest.approx([0.06, 0.11, 0.16, 0.9])
