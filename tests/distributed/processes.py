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
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds of a job
START = 180.0  # seconds of the workers' imports, which are few on a machine that has nothing else to do
PATIENCE = 5.0  # seconds that the other ranks get when one has failed
JOBS = 20  # that workers do, before there are new ones
LINES = 30  # of a worker's output that an error shows


class Pool:
    """Workers for worlds of up to ``size`` processes, started when they are needed first; `close` leaves none behind.

    Each size of a world has workers of its own, which stay in their process group: torch names groups by numbers, and
    one of a group that was left, collected late, would take the name of a new one with it. After some jobs there are
    new ones, since every group that a job makes leaves threads that poll.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._forks = Forks()
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
            self._teams[world] = Team(world, self._forks)
        return self._teams[world].run(function, timeout, arguments)

    def close(self) -> None:
        """End the workers and remove their files."""
        for team in self._teams.values():
            team.stop()
        self._teams = {}
        self._forks.close()


class Forks:
    """The process that has imported torch, and forks workers; see `tests.distributed.worker`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="layerpace-ranks-")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0

    def start(self, world: int) -> tuple[int, list[Connection], list[int]]:
        """Workers of a new group: their number, and a connection and a pid for each rank."""
        if self._process is None:
            self._begin()
        assert self._process is not None and self._process.stdin is not None
        self._number += 1
        self._process.stdin.write(f"{self._number} {world}\n".encode())
        self._process.stdin.flush()
        found: dict[int, tuple[Connection, int]] = {}
        while len(found) < world:
            try:
                other, _ = self._socket.accept()
            except TimeoutError:
                raise AssertionError(f"no worker within {START:g} s: {self.words('process')}") from None
            connection = Connection(other.detach())
            number, rank, pid = connection.recv()
            assert number == self._number
            found[rank] = connection, pid
        ranks = [found[rank] for rank in range(world)]
        return self._number, [connection for connection, _ in ranks], [pid for _, pid in ranks]

    def _begin(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.folder / "socket"))
        self._socket.listen(16)
        self._socket.settimeout(START)
        with open(self.folder / "process.log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worker", str(self.folder)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of processes that can be ended as one
            )

    def words(self, who: str) -> str:
        """The end of what a process has printed."""
        path = self.folder / f"{who}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-LINES:]) if path.exists() else ""

    def close(self) -> None:
        """End all of them and remove their files."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._socket.close()
            self._process = None
        self._folder.cleanup()


class Team:
    """The workers of a world of ``size`` processes; after a failure, and after some jobs, there are others."""

    def __init__(self, size: int, forks: Forks) -> None:
        self.size, self._forks = size, forks
        self.pids: list[int] = []
        self._connections: list[Connection] = []
        self._number = self._jobs = 0

    def run(self, function: Callable[..., Any], timeout: float, arguments: dict[str, Any]) -> list[Any]:
        """See `Pool.run`."""
        if self._jobs >= JOBS:
            self.stop()
        if not self.pids:
            self._number, self._connections, self.pids = self._forks.start(self.size)
        self._jobs += 1
        job = pickle.dumps((f"{function.__module__}:{function.__qualname__}", arguments))
        for connection in self._connections:
            connection.send_bytes(job)
        return self._collect(self.size, timeout, function.__name__)

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
                    end = self._forks.words(f"parent-{self._number}")
                    answers[rank] = False, f"the process has ended\n{self._words(rank)}\n{end}"
                if not answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + PATIENCE)
        return answers

    def _words(self, rank: int) -> str:
        return self._forks.words(f"{self._number}-{rank}")

    def stop(self) -> None:
        """End the workers; the next job starts others."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for connection in self._connections:
            connection.close()
        self._connections, self.pids, self._jobs = [], [], 0


def pool_of(number: int) -> Iterator[Pool]:
    """A pool for a fixture to yield from; closed at its end. Skips where torch was built without gloo."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    pool = Pool(number)
    try:
        yield pool
    finally:
        pool.close()
