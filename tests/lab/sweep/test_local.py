"""Runs as processes of this machine: kills of all kinds, and what is left of them (nothing)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from layerpace.lab.records import DONE
from layerpace.lab.sweep import local
from layerpace.lab.sweep.process import Process
from layerpace.lab.sweep.protocol import FAILED, LOG, Job, Outcome

from .helpers import environment, said, until, workers, write_runner

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process groups and affinity as on Linux")


def job(folder: Path, n: int = 0, **config: Any) -> Job:
    reference = write_runner(folder)
    return Job({"n": n, "log": str(folder / "log"), **config}, folder / f"run-{n}", reference, 1, cwd=str(folder))


def ended(executor: local.Local, number: int, seconds: float = 90) -> list[Outcome]:
    found: list[Outcome] = []
    end = time.monotonic() + seconds
    while len(found) < number:
        assert time.monotonic() < end, found
        found += executor.wait(0.1)
    return found


def test_jobs_end_done_failed_or_lost_each_on_its_share_of_the_cores(spec: Path) -> None:
    number = len(local.cores())
    executor = local.make(spec, None, None, None)
    assert (executor.slots(), executor.threads) == (number, 1)
    executor = local.Local(3, 1)
    try:
        jobs = [job(spec, 0), job(spec, 1, raises=1), job(spec, 2, dies=2)]
        for one in jobs:
            executor.submit(one)
        assert executor.where(jobs[0]).startswith("pid ")
        outcomes = {outcome.job.folder: outcome for outcome in ended(executor, 3)}
        assert [outcomes[one.folder].status for one in jobs] == ["done", "failed", "lost"]
        assert outcomes[jobs[1].folder].detail == "was to fail"
        assert outcomes[jobs[2].folder].detail == "killed by SIGKILL"
        assert json.loads((jobs[0].folder / DONE).read_text())["threads"] == "1"
        assert "hello from 0" in (jobs[0].folder / LOG).read_text()
        assert "Traceback" in (jobs[1].folder / FAILED).read_text()
        assert executor.wait(0) == [] and executor.where(jobs[0]) == ""
    finally:
        executor.close()


def test_runs_that_fill_the_cores_have_some_of_their_own(spec: Path) -> None:
    cores = local.cores()
    executor = local.Local(len(cores), 1)
    places = [place.cpus for place in executor.places]
    assert sorted(places) == [(core,) for core in cores]
    assert local.Local(len(cores) + 1, 1).places == [local.Place((), "")] * (len(cores) + 1)
    process = Process(job(spec, 0, sleep=60), places[0])
    try:
        until(lambda: psutil.Process(process.pid).cpu_affinity() == list(places[0]))
    finally:
        process.kill()
        process.popen.wait(10)


def test_of_several_gpus_each_run_sees_one(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [place.gpu for place in local.Local(3, 1).places] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert sorted(place.gpu for place in local.Local(2, 1).places) == ["5", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert {place.gpu for place in local.Local(2, 1).places} == {""}
    process = Process(job(spec, 0), gpu="7")
    assert process.wait(90) is not None
    assert json.loads((spec / "run-0" / DONE).read_text())["gpu"] == "7"


def test_closing_stops_a_run_and_what_it_has_started(spec: Path) -> None:
    executor = local.Local(1, 1)
    executor.submit(job(spec, 0, sleep=60, child=True))
    try:
        until(lambda: said(spec / "log", "begin"))
        until(lambda: len(workers(spec)) == 2)
    finally:
        executor.close()
    until(lambda: not workers(spec), 30)
    assert not (spec / "run-0" / DONE).exists() and not (spec / "run-0" / FAILED).exists()


PARENT = """
import os, sys, time
from pathlib import Path
from layerpace.lab.sweep.process import Process
from layerpace.lab.sweep.protocol import Job

folder = Path(sys.argv[1])
Process(Job({"n": 0, "log": str(folder / "log"), "sleep": 60, "child": True}, folder / "run", "runner.py:run", 1))
if os.fork() == 0:  # holds the pipe to the worker open
    os.chdir("/")
    (folder / "fork").write_text(str(os.getpid()))
time.sleep(120)
"""


def test_a_run_ends_with_its_parent_also_where_a_fork_of_that_holds_the_pipe(spec: Path) -> None:
    write_runner(spec)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(spec)], cwd=spec, env=environment())
    try:
        until(lambda: said(spec / "log", "begin") and (spec / "fork").exists() and len(workers(spec)) == 3)
        parent.kill()
        parent.wait(10)
        until(lambda: not workers(spec), 30)  # nor the runner's child, which ignores SIGTERM
        assert not (spec / "run" / FAILED).exists()
    finally:
        parent.kill()
        parent.wait(10)
        until(lambda: (spec / "fork").exists(), 5)
        os.kill(int((spec / "fork").read_text()), signal.SIGKILL)


def test_an_order_to_stop_that_a_runner_ignores_is_followed_by_force(spec: Path, monkeypatch: Any) -> None:
    (spec / "deaf.py").write_text(
        "import time\n"
        "def run(config, folder):\n"
        "    (folder / 'begun').touch()\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except BaseException:\n"
        "            pass\n"
    )
    executor = local.Local(1, 1)
    executor.submit(Job({}, spec / "run", "deaf.py:run", 1, cwd=str(spec)))
    until(lambda: (spec / "run/begun").exists())
    monkeypatch.setattr("layerpace.lab.sweep.local.stop_all.__defaults__", (0.5,))
    executor.close()
    assert not workers(spec)
    assert os.path.isdir(spec / "run")
