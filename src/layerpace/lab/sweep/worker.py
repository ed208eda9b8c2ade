"""Makes one job: imports the runner, runs it, and leaves DONE or FAILED in the run's folder.

`make` does so in the process that calls it. `python -m layerpace.lab.sweep.worker [FD]` is what `process.Process`
starts: it reads the job from stdin, a line of JSON, and takes the end of its parent, however that came, for the order
to stop. Where it has an FD, it writes a byte there once the job is done, and waits for another one. Any other end of a
job ends the process too, and its exit status says how the job ended.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...engine.common.printable import printable_lines
from .. import memory
from ..errors import LabError, Stopped
from ..records import CONFIG, DONE, Lock, to_json, write
from ..reproducible import untouched
from ..stopping import StopSignals
from .protocol import FAILED, LOG, MADE, Job, Outcome

WORKER_LOCK = ".worker"  # in a run's folder; the runner may have a lock of its own
RAISED = 77  # exit status: the runner raised, and FAILED says what
GRACE = 10.0  # seconds that a run has to write a checkpoint once it is told to stop
LOOK = 1.0  # seconds between two looks at the parent
STOP = "null"  # the order to end, for a worker that waits for a job


def make(job: Job) -> Outcome:
    """Make a job, or go on with it, with its number of CPU threads, in this process.

    Returns "done" or "failed"; "lost" if another worker, of a sweep that was killed just now, does not let go of the
    folder. What stops a process (`Stopped`, KeyboardInterrupt) goes through: the run is neither done nor failed then.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = held(job.folder / WORKER_LOCK)
    except LabError as error:
        return Outcome(job, "lost", str(error))
    try:
        if not (job.folder / DONE).exists():
            if not (job.folder / CONFIG).exists():
                write(job.folder / CONFIG, to_json(job.config, indent=2))
            with noted(job):
                run(job)
        (job.folder / FAILED).unlink(missing_ok=True)
        return Outcome(job, "done")
    except (Stopped, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever a user's function raises, SystemExit too
        write(job.folder / FAILED, traceback.format_exc())
        return Outcome(job, "failed", last_line(error))
    finally:
        lock.release()


@contextmanager
def noted(job: Job) -> Iterator[None]:
    """Write down, however it ends, when and where an attempt was made, and by what."""
    began, place = time.time(), here(str(job.config.get("device", "cpu")))
    try:
        yield
    finally:
        line = {"began": began, "ended": time.time(), **place}
        with open(job.folder / MADE, "a") as file:
            file.write(to_json(line) + "\n")


@functools.cache  # the sources as this process has imported them
def here(device: str) -> dict[str, Any]:
    """The machine, and the commit of layerpace."""
    from .. import machine  # imports torch

    return {"commit": machine.commit(), "machine": machine.describe(device)}


def run(job: Job) -> None:
    """Call the runner, and write its result if it has not done that itself."""
    import torch

    from .runner import Runner

    torch.set_num_threads(job.threads)
    runner = Runner.of(job.runner)
    options = {key: value for key, value in job.options.items() if key in runner.options}
    with StopSignals() as signals:
        if "signals" in runner.options:
            options["signals"] = signals
        result = runner.function(dict(job.config), job.folder, **options)
    if (job.folder / DONE).exists():
        return
    if not isinstance(result, Mapping):
        raise TypeError(f"{job.runner} returned {type(result).__name__}, not a dict: the run's result")
    write(job.folder / DONE, to_json(result, indent=2))


def held(path: Path, patience: float = 2 * GRACE) -> Lock:
    """The lock of a run's folder, waited for: the worker of a driver that was killed may still write a checkpoint."""
    end = time.monotonic() + patience
    while True:
        try:
            return Lock(path)
        except LabError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def last_line(error: BaseException) -> str:
    """What a traceback ends with, on one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


def watch(pipe: IO[bytes], parent: int, orders: queue.SimpleQueue[Any], orphaned: threading.Event) -> None:
    """Pass on orders until the parent's end; then stop: in good order, or after a grace by force.

    The end of stdin comes at once, unless a fork of the parent's holds it open; so the parent itself is looked at too.
    The kernel's own signal (PR_SET_PDEATHSIG) would be a second one, which ends a run without its checkpoint.
    """
    text = b""
    while os.getppid() == parent:
        ready, _, _ = select.select([pipe], [], [], LOOK)
        if not ready:
            continue
        part = pipe.read(1 << 16)  # what there is
        if not part:
            break
        *lines, text = (text + part).split(b"\n")
        for line in lines:
            orders.put(json.loads(line))
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    end_group(signal.SIGKILL)
    os._exit(1)


def end_group(signum: int) -> None:
    """Send a signal to this process's group, where it leads one: it holds what the runner has started, and left."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signum)


def ours(job: Job) -> bool:
    """Whether nothing but layerpace's own code makes a job: what that leaves behind in a process is known."""
    task = job.config.get("task")
    return job.runner.startswith("layerpace.") and (
        not isinstance(task, str) or ":" not in task or task.startswith("layerpace.")
    )


def main(says: int | None = None) -> int:
    """0: done, or told to end; RAISED: failed; 128 + signal: stopped. `says`: where to say that a job is wanted."""
    parent = os.getppid()
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the runner and its children must not read from the pipe
    if says is not None:
        os.set_inheritable(says, False)
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    orphaned = threading.Event()
    threading.Thread(target=watch, args=(pipe, parent, orders, orphaned), daemon=True).start()
    try:
        while (order := orders.get()) is not None:
            job = Job.from_dict(order["job"])
            if order["cpus"] and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, order["cpus"])
            if job.runner.startswith("layerpace."):
                memory.keep()
            if says is None:
                return status(job)
            print_to(job.folder / LOG)
            with untouched():
                ended = status(job)
            if ended != 0:
                return ended
            gc.collect()
            os.write(says, b".")
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_group(signal.SIGKILL if orphaned.is_set() else signal.SIGTERM)


def print_to(path: Path) -> None:
    """Let all that this process prints, from C++ too, go to the end of a file."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with open(path, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def status(job: Job) -> int:
    """Make the job; the exit status that tells how it ended."""
    try:
        outcome = make(job)
    except Stopped as stop:
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if outcome.status == "failed":
        print(printable_lines((job.folder / FAILED).read_text(errors="replace")), file=sys.stderr)
        return RAISED
    if outcome.status == "lost":
        print(printable_lines(outcome.detail), file=sys.stderr)
    return 0 if outcome.status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
