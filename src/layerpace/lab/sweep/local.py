"""Jobs as processes on this machine: as many at once as the cores allow, each with its share of them.

A process that has made a job of layerpace's own takes the next one, which saves the seconds that it takes to import
torch. One whose job ran a user's code, or did not end well, is never used again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .process import Process, stop_all
from .protocol import Job, Outcome


def cores() -> list[int]:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    number = torch.cuda.device_count()  # does not start CUDA
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:number] if named else [str(index) for index in range(number)]


def make(out: Path, address: str | None, jobs: int | None, threads: int | None) -> Local:
    """An executor of this machine; see `protocol.MakeExecutor`.

    By default every run has one thread, and there is a run a core: many small runs are done soonest so.
    """
    if address is not None:
        raise UsageError(f"--address {address}: belongs to --executor ray")
    number = len(cores())
    if jobs is None:
        jobs = max(1, number // (threads or 1))
    return Local(jobs, threads or max(1, number // jobs))


@dataclass(frozen=True)
class Place:
    """Where one of the jobs runs: CPUs (empty: all of them), and a GPU ("": all)."""

    cpus: tuple[int, ...]
    gpu: str


class Local:
    """`jobs` processes at once.

    Where they fill the cores exactly, each is kept to cores of its own; else, other programs or another sweep may be
    meant to have the rest, and the system shares the cores out. Of several GPUs each process sees one, in turn.

    Several drivers may use it one after another, before it is closed.

    Attributes:
        threads: of a job whose spec does not say how many.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads
        found = cores()
        exact = jobs * threads == len(found)
        devices = gpus()
        self.places = [
            Place(
                tuple(found[i * threads : (i + 1) * threads]) if exact else (),
                devices[i % len(devices)] if len(devices) > 1 else "",
            )
            for i in reversed(range(jobs))
        ]
        self.running: dict[Path, tuple[Process, Place]] = {}
        self.waiting: list[tuple[Process, Place]] = []  # for a job, the last one at the end
        self.ended: queue.Queue[Outcome] = queue.Queue()

    def slots(self) -> int:
        return self.jobs

    def submit(self, job: Job) -> None:
        process, place = self.process(job)
        self.running[job.folder] = process, place
        threading.Thread(target=self.watch, args=(process,), daemon=True).start()

    def process(self, job: Job) -> tuple[Process, Place]:
        """One that waits for such a job, or else a new one."""
        for process, place in reversed(self.waiting):
            if process.takes(job):
                self.waiting.remove((process, place))
                job.folder.mkdir(parents=True, exist_ok=True)
                process.order(job)
                return process, place
        if not self.places:
            old, place = self.waiting.pop(0)
            stop_all([old])
            self.places.append(place)
        place = self.places[-1]
        process = Process(job, place.cpus if len(place.cpus) == job.threads else (), place.gpu, keep=True)
        self.places.pop()
        return process, place

    def watch(self, process: Process) -> None:
        """In a thread of its own: hand on how a process ended, the moment it does."""
        outcome = process.wait()
        assert outcome is not None
        self.ended.put(outcome)

    def wait(self, timeout: float) -> Sequence[Outcome]:
        found: list[Outcome] = []
        while True:
            try:
                outcome = self.ended.get(timeout=0 if found else timeout)
            except queue.Empty:
                return found
            process, place = self.running.pop(outcome.job.folder)
            if process.waiting:
                self.waiting.append((process, place))
            else:
                self.places.append(place)
            found.append(outcome)

    def where(self, job: Job) -> str:
        return f"pid {self.running[job.folder][0].pid}" if job.folder in self.running else ""

    def close(self) -> None:
        stop_all(process for process, _ in [*self.running.values(), *self.waiting])
        self.running.clear()
        self.waiting.clear()
