"""Workers that make several jobs: which do, and that nothing of a job is left for the next one, nor of the workers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layerpace.lab.records import DONE
from layerpace.lab.reproducible import untouched
from layerpace.lab.single import resolve
from layerpace.lab.sweep import local, process
from layerpace.lab.sweep.protocol import FAILED, LOG, Job, Outcome
from layerpace.lab.sweep.worker import GRACE, ours

from .helpers import environment, until, workers, write_runner

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process groups as on Linux")


def job(folder: Path, n: int = 0, threads: int = 1, **config: Any) -> Job:
    reference = write_runner(folder)
    return Job({"n": n, "log": str(folder / "log"), **config}, folder / f"run-{n}", reference, threads, cwd=str(folder))


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that costs nothing is taken for one of layerpace's own."""
    monkeypatch.setattr(process, "ours", lambda job: True)


@pytest.fixture
def one(spec: Path) -> Iterator[local.Local]:
    """An executor of one job at once."""
    executor = local.Local(1, 1)
    yield executor
    executor.close()


def made(executor: local.Local, job: Job) -> tuple[Outcome, int]:
    """How a job ends, and in which process."""
    executor.submit(job)
    pid = int(executor.where(job).removeprefix("pid "))
    return until(lambda: executor.wait(0.1))[0], pid


def test_a_run_has_the_same_bits_as_the_first_and_as_the_third_of_its_worker(spec: Path, one: local.Local) -> None:
    base = {"data": "digits", "steps": 4, "eval_every": 4, "threads": 1}
    requests = [{**base, "method": "lamb"}, {**base, "method": "layca", "dtype": "bf16", "seed": 1}]
    pids, results = [], []
    for place, request in enumerate([*requests, requests[0]]):
        outcome, pid = made(one, Job(resolve(request), spec / f"{place}", "layerpace.lab.single:run", 1, cwd=str(spec)))
        assert outcome.status == "done", (spec / f"{place}" / LOG).read_text()
        pids.append(pid)
        results.append(json.loads((spec / f"{place}" / DONE).read_text()))
    assert len(set(pids)) == 1
    first, second, third = ({k: v for k, v in result.items() if not k.endswith("_ms")} for result in results)
    assert first == third and first["weights_sha256"] != second["weights_sha256"]


def test_a_job_that_fails_or_dies_ends_its_process(spec: Path, one: local.Local, trusted: None) -> None:
    jobs = [job(spec, 0), job(spec, 1), job(spec, 2, raises=2), job(spec, 3), job(spec, 4, dies=4)]
    found = [made(one, each) for each in jobs]
    assert [outcome.status for outcome, _ in found] == ["done", "done", "failed", "done", "lost"]
    assert found[2][0].detail == "was to fail" and found[4][0].detail == "killed by SIGKILL"
    pids = [pid for _, pid in found]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4]
    for n in range(5):  # each has its own words, and no others
        assert (spec / f"run-{n}" / LOG).read_text().splitlines()[0] == f"hello from {n}"
        assert (spec / f"run-{n}" / LOG).read_text().count("hello") == 1
    assert "Traceback" in (spec / "run-2" / LOG).read_text() and (spec / "run-2" / FAILED).exists()
    assert not one.waiting and len(one.places) == 1 and not workers(spec)


def test_a_users_code_has_a_process_to_itself(spec: Path, one: local.Local) -> None:
    assert made(one, job(spec, 0))[0].status == "done"
    assert not one.waiting and len(one.places) == 1 and not workers(spec)


@pytest.mark.parametrize(
    ("runner", "task", "own"),
    [
        ("layerpace.lab.single:run", None, True),
        ("layerpace.lab.single:run", "layerpace.recipes.tasks:ratings(users=10)", True),
        ("layerpace.recipes.model:run", "a name", True),
        ("layerpace.lab.single:run", "mine.py:task", False),
        ("layerpace.lab.single:run", "mine:task('layerpace.')", False),
        ("layerpace_mine:run", None, False),
        ("mine.py:run", None, False),
    ],
)
def test_whose_code_makes_a_job(tmp_path: Path, runner: str, task: str | None, own: bool) -> None:
    assert ours(Job({"task": task}, tmp_path, runner, 1)) == own


def test_a_worker_takes_only_jobs_that_a_new_one_would_make_alike_and_else_gives_way(
    spec: Path, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = local.Local(1, 1)
    _, first = made(executor, job(spec, 0))
    ((waiting, _),) = executor.waiting
    assert waiting.takes(job(spec, 1)) and not waiting.takes(job(spec, 1, threads=2))
    assert not waiting.takes(replace(job(spec, 1), cwd="/"))
    with monkeypatch.context() as patch:
        patch.setenv("LAYERPACE_TEST", "another")
        assert not waiting.takes(job(spec, 1))
    _, second = made(executor, job(spec, 2, threads=2))
    assert first != second and [entry.pid for entry in workers(spec)] == [second]
    assert [json.loads((spec / f"run-{n}" / DONE).read_text())["threads"] for n in (0, 2)] == ["1", "2"]
    began = time.monotonic()
    executor.close()
    assert not workers(spec) and time.monotonic() - began < GRACE


def test_a_stop_that_comes_too_late_for_a_run_ends_its_worker(spec: Path, trusted: None) -> None:
    (spec / "deaf.py").write_text(
        "import time\n"
        "def run(config, folder):\n"
        "    (folder / 'begun').touch()\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except BaseException:\n"
        "        return {'n': 1}\n"
    )
    executor = local.Local(1, 1)
    executor.submit(Job({}, spec / "run", "deaf.py:run", 1, cwd=str(spec)))
    until(lambda: (spec / "run/begun").exists())
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < GRACE
    assert (spec / "run" / DONE).exists() and not workers(spec)


PARENT = """
import sys, time
from pathlib import Path
from layerpace.lab.sweep import local, process
from layerpace.lab.sweep.protocol import Job

process.ours = lambda job: True
folder = Path(sys.argv[1])
executor = local.Local(1, 1)
executor.submit(Job({"n": 0, "log": str(folder / "log")}, folder / "run", "runner.py:run", 1))
while not executor.waiting:
    executor.wait(0.1)
(folder / "waits").touch()
time.sleep(120)
"""


def test_a_worker_that_waits_ends_with_its_parent(spec: Path) -> None:
    write_runner(spec)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(spec)], cwd=spec, env=environment())
    try:
        until(lambda: (spec / "waits").exists() and len(workers(spec)) == 2)
    finally:
        parent.kill()
        parent.wait(10)
    until(lambda: not workers(spec), 10)


def test_torch_is_as_it_was() -> None:
    def state() -> list[Any]:
        return [
            torch.get_rng_state().tolist(), torch.initial_seed(), torch.get_num_threads(), torch.get_default_dtype(),
            torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        ]  # fmt: skip

    before = state()
    with untouched():
        torch.manual_seed(random.randrange(10**6))
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
        torch.use_deterministic_algorithms(not before[8], warn_only=not before[9])
        torch.utils.deterministic.fill_uninitialized_memory = not before[10]  # type: ignore[attr-defined]
        changed = state()
    assert state() == before and not [a for a, b in zip(changed[:9], before[:9], strict=True) if a == b]
