"""Worker processes that run functions of these tests as the ranks of a process group.

They start once and serve many jobs, because importing torch takes seconds: one process imports it and forks the
others. A job is a function that can be imported; each rank runs it in a gloo group. Whatever goes wrong in a rank (an
exception, a crash, a rank that waits forever) is an AssertionError with that rank's own words, and the next job finds
fresh workers.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds of a job
START = 180.0  # seconds of the workers' imports, which are few on a machine that has nothing else to do
PATIENCE = 5.0  # seconds that the other ranks get when one has failed
LINES = 30  # of a worker's output that an error shows


class Pool:
    """Workers for worlds of up to ``size`` processes, started when they are needed first; `close` leaves none behind.

    Each size of a world has workers of its own, which stay in their process group: torch names groups by numbers, and
    one of a group that was left, collected late, would take the name of a new one with it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._teams: dict[int, Team] = {}

    @property
    def pids(self) -> list[int]:
        """Of the workers that there are now."""
        return [pid for team in self._teams.values() for pid in team.pids]

    def run(self, function: Callable[..., Any], world: int, *, timeout: float = TIMEOUT, **arguments: Any) -> list[Any]:
        """Call ``function(**arguments)`` in ``world`` processes, which are a gloo group.

        Returns:
            What each rank returned.

        Raises:
            AssertionError: a rank failed, died, or took longer than ``timeout`` seconds.
        """
        if not 1 <= world <= self.size:
            raise ValueError(f"a world of {world} processes does not fit into a pool of {self.size}")
        if world not in self._teams:
            self._teams[world] = Team(world)
        return self._teams[world].run(function, timeout, arguments)

    def close(self) -> None:
        """End the workers and remove their files."""
        for team in self._teams.values():
            team.close()
        self._teams = {}


class Team:
    """The workers of a world of ``size`` processes; after a failure there are others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pids: list[int] = []
        self._parent: subprocess.Popen[bytes] | None = None
        self._connections: list[Connection] = []
        self._folder = tempfile.TemporaryDirectory(prefix="layerpace-ranks-")
        self._starts = 0

    def run(self, function: Callable[..., Any], timeout: float, arguments: dict[str, Any]) -> list[Any]:
        """See `Pool.run`."""
        if self._parent is None:
            self._start()
        job = pickle.dumps((f"{function.__module__}:{function.__qualname__}", arguments))
        for connection in self._connections:
            connection.send_bytes(job)
        return self._collect(self.size, timeout, function.__name__)

    def _start(self) -> None:
        self._starts += 1
        store = str(Path(self._folder.name) / f"store-{self._starts}")
        pipes = [Pipe() for _ in range(self.size)]
        self._connections = [ours for ours, _ in pipes]
        places = [theirs.fileno() for _, theirs in pipes]
        with open(self._log("parent"), "wb") as log:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worker", self._folder.name, store, *map(str, places)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                pass_fds=places,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of processes that can be ended as one
            )
        for _, theirs in pipes:
            theirs.close()
        self.pids = self._collect(self.size, START, "start")

    def _collect(self, world: int, timeout: float, what: str) -> list[Any]:
        """What each rank answers; AssertionError if one does not, or has failed."""
        answers = self._answers(world, timeout)
        failures = {rank: words for rank, (good, words) in answers.items() if not good}
        if failures:
            self.stop()  # who knows in which collective the others are
            (first, words), *others = failures.items()
            also = [f"rank {rank}: {(more.splitlines() or [''])[-1]}" for rank, more in others]
            raise AssertionError("\n".join([f"rank {first} of {world}, {what}: {words}", *also]))
        return [answers[rank][1] for rank in range(world)]

    def _answers(self, world: int, timeout: float) -> dict[int, tuple[bool, Any]]:
        """(success, value or text) of each rank, those that failed first."""
        answers: dict[int, tuple[bool, Any]] = {}
        deadline = time.monotonic() + timeout
        while len(answers) < world:
            missing = {self._connections[rank]: rank for rank in range(world) if rank not in answers}
            ready = wait(list(missing), max(0.0, deadline - time.monotonic()))
            if not ready:
                why = f"no answer within {timeout:g} s" if all(good for good, _ in answers.values()) else "waits"
                answers |= {rank: (False, f"{why}\n{self._words(rank)}") for rank in missing.values()}
            for connection in ready:
                rank = missing[connection]  # type: ignore[index]
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())  # type: ignore[union-attr]
                except (EOFError, OSError):
                    time.sleep(0.2)  # its parent has something to say about it
                    answers[rank] = False, f"the process has ended\n{self._words(rank)}\n{self._words('parent')}"
                if not answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + PATIENCE)
        return answers

    def _log(self, who: int | str) -> Path:
        return Path(self._folder.name) / f"{who}.log"

    def _words(self, who: int | str) -> str:
        path = self._log(who)
        return "\n".join(path.read_text(errors="replace").splitlines()[-LINES:]) if path.exists() else ""

    def stop(self) -> None:
        """End the workers; the next job starts others."""
        if self._parent is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._parent.pid, signal.SIGKILL)
            self._parent.wait()
        for connection in self._connections:
            connection.close()
        self._parent, self._connections, self.pids = None, [], []

    def close(self) -> None:
        """End the workers and remove their files."""
        self.stop()
        self._folder.cleanup()


def pool_of(number: int) -> Iterator[Pool]:
    """A pool for a fixture to yield from; closed at its end. Skips where torch was built without gloo."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    pool = Pool(number)
    try:
        yield pool
    finally:
        pool.close()
