"""The processes of `tests.distributed.processes`: each waits for jobs, and ends when who started it does."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint
from tests.distributed import training  # noqa: F401  what most jobs import, before the forks

PATIENCE = timedelta(seconds=40)  # of a collective


def start(folder: Path, store: Path, places: Sequence[int]) -> None:
    """Fork a worker for each of the file descriptors, and say how it ended."""
    torch.set_num_threads(1)
    ranks: dict[int, int] = {}
    for rank, place in enumerate(places):
        pid = os.fork()
        if pid == 0:
            for other in places:
                if other != place:
                    os.close(other)
            log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            serve(Connection(place), store, rank, len(places))
        ranks[pid] = rank
    for place in places:
        os.close(place)
    for _ in places:
        pid, status = os.wait()
        print(f"rank {ranks[pid]} ended with status {os.waitstatus_to_exitcode(status)}", flush=True)


def serve(connection: Connection, store: Path, rank: int, world: int) -> None:
    """Join the others, and do the jobs that come in; never returns."""
    jobs: queue.Queue[bytes] = queue.Queue()
    Thread(target=receive, args=(connection, jobs), daemon=True).start()
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world, timeout=PATIENCE
    )
    connection.send_bytes(pickle.dumps((True, os.getpid())))
    while True:
        name, arguments = pickle.loads(jobs.get())
        try:
            answer = True, run(name, arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        connection.send_bytes(pickle.dumps(answer))


def receive(connection: Connection, jobs: queue.Queue[bytes]) -> None:
    """In a thread of its own, which sees the end of the other side even while this process waits for other ranks."""
    try:
        while True:
            jobs.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def run(name: str, arguments: dict[str, Any]) -> Any:
    module, function = name.split(":")
    torch.manual_seed(0)
    return getattr(import_module(module), function)(**arguments)


if __name__ == "__main__":
    start(Path(sys.argv[1]), Path(sys.argv[2]), [int(place) for place in sys.argv[3:]])
