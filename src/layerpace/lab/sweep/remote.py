"""What runs on the nodes of a Ray cluster: a job, and before the first one a few questions."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import layerpace

from ..errors import one_line
from .process import Process, stop_all
from .protocol import SWEEP, Job

PLACE = ".place"  # in a run's folder while it runs: where


def about() -> dict[str, str]:
    """What must be the same on all nodes."""
    return {"layerpace": getattr(layerpace, "__version__", "unknown"), "Python": platform.python_version()}


def describe(mark: str) -> dict[str, Any]:
    """What a node is asked before the first job. Runs there."""
    return {**about(), "sees": Path(mark).exists()}


def make_job(job_as_dict: Mapping[str, Any], out: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Make a job, and return (status, detail) of its outcome. Runs in a worker of Ray's, whose parent is the raylet."""
    job = Job.from_dict(job_as_dict)
    node, raylet = platform.node(), os.getppid()
    if not (Path(out) / SWEEP).exists():
        return "lost", f"node {node} does not see {out}: OUT must be a folder that all nodes share"
    os.environ.update(environment)
    place = job.folder / PLACE
    with cancellation() as cancelled:
        try:
            process = Process(job)
        except OSError as error:
            return "lost", f"node {node}: {one_line(error)}"
        try:
            place.write_text(f"{node} {process.pid}")
            while (outcome := process.wait(0.2)) is None and not cancelled.is_set() and os.getppid() == raylet:
                pass
        finally:
            stop_all([process])
            with contextlib.suppress(OSError):
                place.unlink(missing_ok=True)
    if outcome is None and cancelled.is_set():
        raise KeyboardInterrupt
    if outcome is None:  # Ray itself would let the run go on, where nobody could end it, and send more here
        os._exit(1)
    return outcome.status, f"{outcome.detail} on {node}" if outcome.status == "lost" else outcome.detail


@contextlib.contextmanager
def cancellation() -> Iterator[threading.Event]:
    """Set once Ray wants the task to end: its interrupt of the main thread must not come between any two lines."""
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
