"""The harness of these tests: what goes wrong in a rank is seen, and no process stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.distributed import broken
from tests.distributed.processes import ROOT, Pool


@pytest.fixture(scope="module")
def own() -> Iterator[Pool]:
    pool = Pool(2)
    try:
        yield pool
    finally:
        pool.close()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in Linux's /proc")
def test_failures_are_told_and_nothing_stays(own: Pool) -> None:
    assert own.run(broken.ranks, 2) == [(0, 2), (1, 2)]
    first = own.pids
    with pytest.raises(AssertionError, match=r"rank 1 of 2, fail(.|\n)*ValueError: in rank 1"):
        own.run(broken.fail, 2)
    assert own.pids == [] and all(gone(pid) for pid in first)
    assert own.run(broken.ranks, 1) == [(0, 1)]
    with pytest.raises(AssertionError, match=f"rank 1 of 2, die: (.|\n)*rank 1 ended with status {-signal.SIGKILL}"):
        own.run(broken.die, 2)
    with pytest.raises(AssertionError, match=r"no answer within 0\.2 s"):
        own.run(broken.sleep, 2, timeout=0.2)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in Linux's /proc")
def test_workers_end_with_who_started_them() -> None:
    """Even in the middle of a collective, and when nobody could tell them."""
    code = """
import os, signal, threading, time
from tests.distributed import broken
from tests.distributed.processes import Pool
pool = Pool(2)
pool.run(broken.ranks, 2)
print(*pool.pids, flush=True)
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGKILL]).start()
pool.run(broken.wait, 2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
