"""Kills and stops of a whole sweep: what was finished is not made again, and no process stays."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.records import DONE

from .helpers import run, said, sweep, until, workers, write_runner

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes by /proc")


def write_spec(folder: Path, numbers: int, **base: Any) -> str:
    """A sweep of the cheap runner over n = 0, 1, ..."""
    write_runner(folder)
    table = {"name": "cheap", "runner": "runner.py:run", "base": {"log": str(folder / "log"), **base}}
    table["grid"] = {"n": list(range(numbers))}
    (folder / "specs.py").write_text(f"def cheap(): return {table!r}\n")
    return "specs.py:cheap"


def finished(folder: Path) -> list[Path]:
    return list(folder.glob(f"runs/sweep-cheap/runs/*/{DONE}"))


def test_SIGKILL_of_the_driver_leaves_no_worker_and_the_next_start_makes_the_rest(spec: Path) -> None:
    source = write_spec(spec, 3, sleep=0.3, child=True)
    with sweep(spec, source, "--jobs", "2") as driver:
        until(lambda: finished(spec) and len(said(spec / "log", "begin")) > 2)
        driver.kill()
        driver.wait(10)
        until(lambda: not workers(spec), 30)
    before = finished(spec)
    assert 1 <= len(before) < 3  # a worker may just have been done
    status, _, err = run(spec, source, "--jobs", "2")
    assert status == 0, err
    assert f"{len(before)} finished before" in err and len(finished(spec)) == 3
    begins = Counter(said(spec / "log", "begin"))
    assert {begins[round(10 * json.loads(done.read_text())["test_score"])] for done in before} == {1}
    assert set(begins) == {0, 1, 2}


def test_SIGKILL_of_a_worker_costs_its_run_alone_and_a_failure_stops_nothing(spec: Path) -> None:
    source = write_spec(spec, 3, dies=1, raises=2)
    status, out, err = run(spec, source, "--jobs", "2", "--json")
    assert status == 3 and "1 run failed" in err
    assert "lost its worker (killed by SIGKILL): attempt 2 follows" in err
    document = json.loads(out)
    assert [entry["status"] for entry in document["runs"]] == ["done", "done", "failed"]
    assert document["runs"][2]["error"] == "was to fail"
    assert Counter(said(spec / "log", "begin")) == {0: 1, 1: 2, 2: 1}
    assert (document["done"], document["failed"], document["out"]) == (2, 1, str(spec / "runs/sweep-cheap"))


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_the_workers_and_says_how_to_go_on(spec: Path, signum: int, status: int) -> None:
    source = write_spec(spec, 3, sleep=60, child=True)
    with sweep(spec, source, "--jobs", "1") as driver:
        until(lambda: said(spec / "log", "begin"))
        driver.send_signal(signum)
        _, err = driver.communicate(timeout=40)
        assert driver.returncode == status
    assert f"stopped; to go on: layerpace sweep {source} --jobs 1\n" in err
    until(lambda: not workers(spec), 30)
    assert not finished(spec)
