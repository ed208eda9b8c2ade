"""The benchmark of sharded steps runs to the end and leaves nothing out; never what its times are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.sharding import ADAMS, METHODS_HERE, SETS
from tests.distributed.processes import ROOT


@pytest.mark.slow  # the whole benchmark
def test_every_method_is_measured_or_named_with_the_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.sharding", "--quick", "--sets", "G", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "sharding.json").read_text())
    assert results["command"] == "python -m " + " ".join(command[2:])
    assert results["settings"]["processes"] == 2 and list(results["sets"]) == ["G"]
    found = results["sets"]["G"]
    measured, skipped = found["methods"], found["skipped"]
    assert measured.keys() | skipped.keys() == {method.name for method in METHODS_HERE}
    assert not measured.keys() & skipped.keys() and set(ADAMS.values()) <= measured.keys()
    for name, row in measured.items():
        assert row["q1"] <= row["ms"] <= row["q3"] and row["rounds"] == 2
        assert row["to_fused"] > 0 and name in done.stdout
    assert measured["torch Adam"]["to_default"] == 1 and measured["torch Adam fused"]["collectives"] == 0
    assert measured["LAMB"]["collectives"] == 1
    assert all(reason and f"not measured: {name}: {reason}" in done.stdout for name, reason in skipped.items())


def test_the_sets_have_200_tensors() -> None:
    assert all(len(chosen.shapes) == 200 for chosen in SETS.values())
