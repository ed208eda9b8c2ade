"""A runner that costs nothing, executors without processes, and what looks after processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from layerpace.lab.errors import Stopped
from layerpace.lab.sweep import worker
from layerpace.lab.sweep.protocol import Job, Outcome, Request, Result

ROOT = Path(__file__).resolve().parents[3]
WORKER = "layerpace.lab.sweep.worker"

# Says in a file what it did; options of the request tell it how to end.
RUNNER = """
import os, signal, subprocess, time

def say(what, config):
    with open(config["log"], "a") as file:
        file.write(f"{what} {config['n']} {os.getpid()}\\n")

def run(config, folder):
    say("begin", config)
    print("hello from", config["n"])
    if config.get("child"):
        subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 600"])
    if config.get("raises") == config["n"]:
        raise ValueError(f"run {config['n']}\\nwas to fail")
    if config.get("dies") == config["n"] and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + config.get("sleep", 0)
    while time.monotonic() < end:
        time.sleep(0.02)
    say("end", config)
    return {"test_score": config["n"] / 10, "threads": os.environ.get("OMP_NUM_THREADS"),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
"""


def write_runner(folder: Path) -> str:
    """The reference of a file with the runner."""
    path = folder / "runner.py"
    path.write_text(RUNNER)
    return f"{path}:run"


def said(log: Path, what: str) -> list[int]:
    """Which runs said it, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(what)]


class Here:
    """An executor that makes its jobs in this process, when it is waited for."""

    threads = 1

    def __init__(self, slots: int = 2) -> None:
        self.number, self.most, self.closed = slots, 0, False
        self.jobs: list[Job] = []

    def slots(self) -> int:
        return self.number

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def wait(self, timeout: float) -> Sequence[Outcome]:
        return [self.end(self.jobs.pop(0))] if self.jobs else []

    def end(self, job: Job) -> Outcome:
        return worker.make(job)

    def where(self, job: Job) -> str:
        return "here"

    def close(self) -> None:
        self.closed = True


class Losing(Here):
    """One that loses the worker of the first `times` jobs of each folder."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.attempts: list[int] = []

    def end(self, job: Job) -> Outcome:
        self.attempts.append(job.attempt)
        return Outcome(job, "lost", "as asked") if job.attempt <= self.times else super().end(job)


class Stopping(Here):
    """One under which Ctrl-C comes during its first job."""

    def end(self, job: Job) -> Outcome:
        raise Stopped(2)


class Climb:
    """A searcher: asks for n = 1, then for the next one as long as the score rises; at most 5."""

    def __init__(self, base: Mapping[str, Any]) -> None:
        self.base, self.asked = dict(base), 0
        self.told: dict[int, Result | None] = {}

    def ask(self, room: int) -> Sequence[Request]:
        if self.asked >= 5 or any(n not in self.told for n in range(1, self.asked + 1)):
            return []
        self.asked += 1
        return [{**self.base, "n": self.asked}]

    def tell(self, request: Request, result: Result | None) -> None:
        self.told[request["n"]] = result

    def finished(self) -> bool:
        return self.asked >= 5 and len(self.told) >= 5

    def total(self) -> int | None:
        return None


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def sweep(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`layerpace sweep` under way; it and all beneath it are gone afterwards, however the test went."""
    process = subprocess.Popen(
        [sys.executable, "-m", "layerpace", "sweep", *arguments],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        for found in [*workers(folder), process]:
            try:
                found.kill()
            except (psutil.Error, OSError):
                continue
        process.communicate(timeout=20)


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with sweep(folder, *arguments) as process:
        out, err = process.communicate(timeout=150)
        return process.returncode, out, err


def workers(folder: Path) -> list[psutil.Process]:
    """The processes of a sweep that was started in `folder`, and what they have started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.cwd() != str(folder) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if "sweep" not in process.cmdline()[3:4]:  # may have ended since: then it is none
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What it gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found
