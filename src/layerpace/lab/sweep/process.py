"""A job in a process of its own, which ends with its parent, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..records import DONE
from .protocol import FAILED, LOG, Job, Outcome
from .worker import GRACE, RAISED

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Process:
    """Starts `worker` for a job; its output goes to log.txt in the run's folder.

    The worker has a process group of its own, so that Ctrl-C in the terminal reaches the driver alone, and is told the
    driver's end by the pipe that is its stdin.

    Args:
        cpus: that it may run on; empty: all.
        gpu: the CUDA device that it sees, as CUDA_VISIBLE_DEVICES names it; "": as this process does.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, job: Job, cpus: Sequence[int] = (), gpu: str = "") -> None:
        self.job, self.over = job, False
        job.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **dict.fromkeys(POOLS, str(job.threads))}
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with open(job.folder / LOG, "ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "layerpace.lab.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=job.cwd,
                start_new_session=True,
            )
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already: `poll` will say how
            self.popen.stdin.write(json.dumps({"job": job.as_dict(), "cpus": list(cpus)}).encode() + b"\n")
            self.popen.stdin.flush()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """How the job ended; None: it has not within `timeout` seconds (None: however long it takes)."""
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self.kill()  # what the runner started and left behind
        return self.outcome(status)

    def poll(self) -> Outcome | None:
        """How the job ended; None: it has not."""
        return self.wait(0) if self.popen.poll() is not None else None

    def outcome(self, status: int) -> Outcome:
        if (self.job.folder / DONE).exists():  # also where it died after its last act
            return Outcome(self.job, "done")
        if status == RAISED and (self.job.folder / FAILED).exists():
            return Outcome(self.job, "failed", last_line(self.job.folder / FAILED))
        if status < 0:
            names = {item.value: item.name for item in signal.Signals}
            return Outcome(self.job, "lost", f"killed by {names.get(-status, f'signal {-status}')}")
        return Outcome(self.job, "lost", f"ended with status {status}: {last_line(self.job.folder / LOG)}")

    def stop(self) -> None:
        """Tell it to write a checkpoint and end."""
        if self.popen.poll() is None:
            self.popen.terminate()

    def kill(self) -> None:
        """End it at once, and what it has started."""
        if self.over:  # its number may be somebody else's by now
            return
        self.over = self.popen.returncode is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        if self.popen.stdin is not None and not self.popen.stdin.closed:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()


def stop_all(processes: Iterable[Process], grace: float = GRACE) -> None:
    """Stop them all together; what does not end within `grace` seconds is killed."""
    left = list(processes)
    for process in left:
        process.stop()
    end = time.monotonic() + grace
    try:
        for process in left:
            process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in left:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(grace)


def last_line(path: Path) -> str:
    """The last line of a text that is not empty; "" where there is none."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
