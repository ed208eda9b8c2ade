"""A job in a process of its own, which ends with its parent, however that ends; or, one after another, several jobs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from io import FileIO
from multiprocessing.connection import wait
from pathlib import Path

from ..records import DONE
from .protocol import FAILED, LOG, Job, Outcome
from .worker import GRACE, LOOK, RAISED, STOP, ours

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Process:
    """Starts `worker` for a job; its output goes to log.txt in the run's folder.

    The worker has a process group of its own, so that Ctrl-C in the terminal reaches the driver alone, and is told the
    driver's end by the pipe that is its stdin.

    Args:
        cpus: that it may run on; empty: all.
        gpu: the CUDA device that it sees, as CUDA_VISIBLE_DEVICES names it; "": as this process does.
        keep: once the job is done, the worker waits for another one, if the job is of layerpace's own code alone.

    Attributes:
        waiting: the job is done, and the worker waits for another one.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, job: Job, cpus: Sequence[int] = (), gpu: str = "", keep: bool = False) -> None:
        self.job, self.cpus, self.over, self.waiting = job, cpus, False, False
        job.folder.mkdir(parents=True, exist_ok=True)
        self.surroundings = dict(os.environ)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **dict.fromkeys(POOLS, str(job.threads))}
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.said: FileIO | None = None  # a byte comes here when the worker waits for another job
        says: int | None = None  # its other end
        if keep and ours(job) and os.name == "posix":
            place, says = os.pipe()
            self.said = FileIO(place)
        try:
            with open(job.folder / LOG, "ab") as log:
                self.popen = subprocess.Popen(
                    [sys.executable, "-m", "layerpace.lab.sweep.worker", *([] if says is None else [str(says)])],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=job.cwd,
                    start_new_session=True,
                    pass_fds=() if says is None else (says,),
                )
        except OSError:
            self.forget()
            raise
        finally:
            if says is not None:
                os.close(says)
        self.order(job)

    def order(self, job: Job) -> None:
        """Tell the worker what to make."""
        self.job, self.waiting = job, False
        self.tell(json.dumps({"job": job.as_dict(), "cpus": list(self.cpus)}))

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended already: `wait` will say how
            self.popen.stdin.write(line.encode() + b"\n")
            self.popen.stdin.flush()

    def takes(self, job: Job) -> bool:
        """Whether a worker that waits is what a new one for the job would be."""
        alive = self.waiting and self.popen.poll() is None
        same = (self.job.threads, self.job.cwd) == (job.threads, job.cwd) and self.surroundings == dict(os.environ)
        return alive and same and ours(job)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """How the job ended; None: it has not within `timeout` seconds (None: however long it takes)."""
        if self.said is not None and not self.said.closed and not self.told(timeout):
            return None
        if self.waiting:
            return self.outcome(0)
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self.kill()  # what the runner started and left behind
        self.forget()
        return self.outcome(status)

    def told(self, timeout: float | None) -> bool:
        """Whether the worker has said, within `timeout` seconds, that it waits for another job, or has ended."""
        assert self.said is not None
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK if end is None else max(0.0, end - time.monotonic())
            if wait([self.said.fileno()], min(LOOK, left)):
                self.waiting = bool(self.said.read(1))
                return True
            if self.popen.poll() is not None:  # and a fork of the worker's holds its end of the pipe
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def poll(self) -> Outcome | None:
        """How the job ended; None: it has not."""
        return self.wait(0)

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
        """Tell it to write a checkpoint and end; one that waits for a job ends at once."""
        if self.popen.poll() is None:
            self.tell(STOP)  # where the signal comes too late to stop the run
            self.popen.terminate()

    def gone(self, timeout: float) -> bool:
        """Whether the worker ends within `timeout` seconds."""
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

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
        if self.waiting:  # else the thread that is in `wait` closes it
            self.forget()

    def forget(self) -> None:
        if self.said is not None:
            self.said.close()


def stop_all(processes: Iterable[Process], grace: float = GRACE) -> None:
    """Stop them all together; what does not end within `grace` seconds is killed."""
    left = list(processes)
    for process in left:
        process.stop()
    end = time.monotonic() + grace
    try:
        for process in left:
            process.gone(max(0.0, end - time.monotonic()))
    finally:
        for process in left:
            process.kill()
            process.gone(grace)


def last_line(path: Path) -> str:
    """The last line of a text that is not empty; "" where there is none."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
