"""The GPU benchmark's logic, in a dry run on the CPU and on made numbers; never what its times are."""

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
from benchmarks import traffic
from benchmarks.cuda import check, compiled, goals, report
from benchmarks.cuda.device import Dry, Gpu, count_launches
from benchmarks.cuda.methods import DRY_SETS, GPU_SETS, LARGE, OTHERS, OURS, captured, eager, least_bytes
from benchmarks.cuda.turns import Turns, measure_set
from benchmarks.gpu import main
from benchmarks.measure import Effort
from benchmarks.methods import BY_NAME, UNIT, Method

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

# LAMBC wrong on the kernels alone; everything but what the verdict leads to is left out, to be quick.
ONE_WRONG = """
import sys
import layerpace as lp
from benchmarks import gpu
from benchmarks.cuda import check, compiled, methods

class Wrong(lp.LAMBC):
    def __init__(self, params, lr, **options):
        super().__init__(params, lr * (1.01 if options["backend"] == "triton" else 1.0), **options)

lp.LAMBC = Wrong
ours = methods.ours
two = lambda *a, **o: [m for m in ours(*a, **o) if m.name in ("LAMBC", "SGD momentum")]
gpu.ours = check.ours = methods.ours = two
check.UNTIMED.clear()
compiled.run = lambda limit, dry: {"failed": "left out"}
sys.exit(gpu.main(sys.argv[1:]))
"""


def run(folder: Path, *command: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, results.json, and stdout, of a process of its own: kernels are interpreted from their import on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, *command, "--dry-run", "--out", str(folder)]
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (folder / "results.json").exists(), done.stderr
    return done.returncode, json.loads((folder / "results.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str, Path]:
    folder = tmp_path_factory.mktemp("gpu")
    return *run(folder, "-m", "benchmarks.gpu"), folder


@pytest.mark.slow  # the whole benchmark
@needs_triton
def test_a_dry_run_checks_times_and_names_the_rest(dry: Any) -> None:
    status, results, printed, folder = dry
    assert status == 0
    correctness = results["correctness"]
    assert set(correctness["graph"]) == set(OURS) < set(correctness["eager"]) and not correctness["wrong"]
    assert all(v["right"] and v["error"] <= v["tolerance"] for v in correctness["eager"].values())
    assert set(results["sets"]) == set(DRY_SETS)
    for key, found in results["sets"].items():
        measured = found["modes"]["eager"]
        assert set(measured["methods"]) | set(measured["skipped"]) == {*OURS, *OTHERS} and not measured["failed"]
        assert set(OURS) <= set(measured["methods"])
        for row in measured["methods"].values():
            assert row["q1"] <= row["us"] <= row["q3"] and row["rounds"] == 3
            moved = row["bytes_per_entry"] * found["entries"]
            assert row["gb_per_s"] == pytest.approx(moved / row["us"] / 1e3)
            assert row["share_of_ceiling"] == pytest.approx(row["gb_per_s"] / results["ceiling"]["gb_per_s"])
        assert measured["methods"][UNIT]["ratio"] == 1
        for name, why in measured["skipped"].items():
            assert f"not measured: {name} on {key}, eager: {why}" in printed
    assert "not measured: replays of CUDA graphs" in printed and "not measured: launches" in printed
    assert "torch.compile of the reference: not done within 1 s" in printed
    assert (folder / "gpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # the whole benchmark
@needs_triton
def test_the_results_say_where_they_were_measured(dry: Any) -> None:
    _, results, _, _ = dry
    assert results["command"].startswith("python -m benchmarks.gpu --dry-run") and "NO MEASUREMENT" in results["clock"]
    assert results["versions"]["triton"] and results["versions"]["torch"] == torch.__version__
    assert results["settings"]["dry_run"] and results["machine"]["gpu"]["name"] == "none: dry run"


@pytest.mark.slow  # the whole benchmark
@needs_triton
def test_a_wrong_method_is_reported_and_not_timed(tmp_path: Path) -> None:
    status, results, printed = run(tmp_path, "-c", ONE_WRONG)
    assert status == 1 and results["correctness"]["wrong"] == ["LAMBC"]
    for way in ("by calls", "by replays of a CUDA graph"):
        assert f"WRONG: LAMBC, {way}" in printed
    for found in results["sets"].values():
        assert {"SGD momentum", UNIT} <= set(found["modes"]["eager"]["methods"])
        assert "LAMBC" not in found["modes"]["eager"]["methods"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("\n") == 1 and not list(tmp_path.iterdir())


def test_verdicts() -> None:
    start = [torch.ones(4), torch.zeros(3)]
    exact = [torch.full((4,), 1.5).double(), torch.full((3,), 0.25).double()]

    def judged(second: float) -> check.Verdict:
        return check.judge([torch.full((4,), 1.5), torch.full((3,), second)], exact, start, 5, 1e-3)

    assert judged(0.25).right and judged(0.25).error == 0
    assert not judged(0.251).right and judged(0.251).error == pytest.approx(0.004, rel=1e-3)
    assert not judged(float("nan")).right
    still = check.judge(start, [x.double() for x in start], start, 5, 1e-3)
    assert not still.right and "shows nothing" in still.why


def made(*, share: float, ratio: float, us: float, kernels: int) -> dict[str, Any]:
    """results.json, as far as goals read it, with the same figures for all methods."""
    rows = {
        name: {"bytes_per_entry": 28.0, "ratio_by_round": ratio, "us": us, "share_of_ceiling": share} for name in OURS
    }
    rows[UNIT] = {"bytes_per_entry": 28.0, "ratio_by_round": 1.0, "us": us, "share_of_ceiling": share}
    sets = {key: {"modes": {"eager": {"methods": rows}, "graph": {"methods": rows}}} for key in GPU_SETS}
    launches = {"S4, plain": {name: {"kernels": kernels, "memsets": 1, "memcpys": 7} for name in OURS}}
    return {"sets": sets, "launches": {"counted": launches}}


def met(results: dict[str, Any]) -> dict[str, set[bool | None]]:
    found: dict[str, set[bool | None]] = {}
    for goal in goals.judge(results):
        found.setdefault(goal["kind"], set()).add(goal["met"])
    return found


def test_goals_have_both_outcomes() -> None:
    kinds = {goals.BANDWIDTH, goals.BYTES, goals.LAUNCHES, goals.FLOOR}
    good = made(share=0.90, ratio=1.02, us=100.0, kernels=3)  # floor 90: at most 118
    assert met(good) == {kind: {True} for kind in kinds}
    assert len(goals.judge(good)) == 4 + 4 * 2 * len(OURS) + 2 * len(OURS)
    bad = made(share=0.7, ratio=1.03, us=100.0, kernels=4)  # floor 70: at most 94
    assert met(bad) == {kind: {False} for kind in kinds}
    assert report.goal_table(goals.judge(bad)).row_count == 4


def test_goals_without_figures_are_not_met_and_not_missed() -> None:
    found = met({"sets": {}, "launches": {"counted": {}}})
    assert found == {goals.BANDWIDTH: {None}, goals.FLOOR: {None}}


def test_more_bytes_may_take_longer_and_fewer_may_not() -> None:
    results = made(share=0.9, ratio=1.4, us=100.0, kernels=3)
    rows = results["sets"]["S1"]["modes"]["eager"]["methods"]
    rows["LAMB"]["bytes_per_entry"], rows["Layca"]["bytes_per_entry"] = 40.0, 20.0
    outcome = {g["method"]: g["met"] for g in goals.judge(results) if g["where"] == "S1, eager"}
    assert outcome["LAMB"] and not outcome["Layca"] and not outcome["Adam"]


def test_the_second_pass_is_free_where_the_first_fits_into_l2() -> None:
    l2 = 50 << 20
    least = {key: least_bytes(traffic.LAMB, found.sizes, l2) for key, found in GPU_SETS.items()}
    assert least["S1"] == least["S4"] == 28 and 28 < least["S2"] < 40
    assert least[LARGE] == pytest.approx(40, abs=0.02)
    assert GPU_SETS[LARGE].entries == pytest.approx(1.3e9, rel=0.02)
    assert least_bytes(traffic.ADAM, [10**9], l2) == 28


def test_launches_of_a_trace() -> None:
    trace = [{"ph": "X", "cat": cat} for cat in ("kernel", "kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime")]
    trace += [{"ph": "X", "cat": "gpu_user_annotation"}, {"ph": "f", "cat": "ac2g"}, {"ph": "M"}]
    assert count_launches(trace) == {"kernels": 2, "memcpys": 1, "memsets": 1}
    with pytest.raises(RuntimeError, match="saw no kernel"):
        count_launches([{"ph": "X", "cat": "cpu_op"}])


def test_captured_methods_are_those_that_are_called() -> None:
    assert [m.name for m in eager()] == [UNIT, *OURS, *OTHERS[1:]]
    assert {*OURS, UNIT} <= {m.name for m in captured(torch.device("cpu"))} <= {*OURS, *OTHERS}
    public = {name for name in dir(Gpu) if not name.startswith("_")}
    assert public == {name for name in dir(Dry) if not name.startswith("_")} - {"l2"}


def test_what_breaks_is_named_and_the_others_go_on() -> None:
    def breaks(params: Any) -> Any:
        raise ArithmeticError("made up")

    others = [Method("broken", breaks, traffic.ADAM, 8), BY_NAME["torch SGD fused"]]
    found = measure_set(Dry(), DRY_SETS["S1"], [BY_NAME[UNIT], *others], False, Effort(3, 0), float("inf"))
    assert found["failed"] == {"broken": "ArithmeticError: made up"} and set(found["methods"]) == {UNIT, others[1].name}
    late = measure_set(Dry(), DRY_SETS["S1"], [BY_NAME[UNIT], *others], False, Effort(3, 0), 0.0)
    assert not late["methods"] and set(late["skipped"]) == {UNIT, "broken", others[1].name}
    jumps = Method("jumps", lambda p: torch.optim.SGD(p, lr=1e3), traffic.ADAM, 0)
    with pytest.raises(RuntimeError, match="drifted"):
        Turns(Dry(), [(5, 3)], [BY_NAME[UNIT], jumps], False, float("inf")).run(Effort(3, 0), float("inf"))


@pytest.mark.slow
def test_the_compiled_reference_is_timed() -> None:
    found = compiled.run(300.0, dry=True)
    assert set(found["methods"]) == {UNIT, compiled.PLAIN, compiled.COMPILED}, found
    assert found["graphs"] >= 1 and found["compiling_s"] > 0 and not found["failed"]
    assert report.compiled_table(found).row_count == 3
