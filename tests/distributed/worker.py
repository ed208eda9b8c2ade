"""The processes of `tests.distributed.processes`.

One process imports torch and waits for words on its standard input, "number world": then it forks that many workers,
which connect to the pool's socket, become a process group and do jobs. All of them end when who started them does.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import socket
import sys
import traceback
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import torch
import torch._dynamo  # seconds, which DTensor imports with its first call
import torch.distributed as dist
import torch.distributed.checkpoint
from tests.distributed import training  # noqa: F401  what most jobs import, before the forks

PATIENCE = timedelta(seconds=40)  # of a collective
REAP = 0.05  # seconds until the end of a worker is noticed


def wait_for_words(folder: Path) -> None:
    """Fork workers when told to, and note how each ends; until the other side is gone."""
    torch.set_num_threads(1)
    teams: dict[int, tuple[int, int]] = {}  # pid: (number of the team, rank)
    pending = b""
    while True:
        if select.select([0], [], [], REAP if teams else None)[0]:
            read = os.read(0, 4096)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                number, world = map(int, line.split())
                for rank in range(world):
                    pid = os.fork()
                    if pid == 0:
                        work(folder, number, rank, world)
                    teams[pid] = number, rank
        while teams:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            number, rank = teams.pop(pid)
            with open(folder / f"parent-{number}.log", "a") as log:
                log.write(f"rank {rank} ended with status {os.waitstatus_to_exitcode(status)}\n")


def work(folder: Path, number: int, rank: int, world: int) -> NoReturn:
    """Join the others, and do the jobs that come in."""
    log = os.open(folder / f"{number}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, place)
    other = socket.socket(socket.AF_UNIX)
    other.connect(str(folder / "socket"))
    connection = Connection(other.detach())
    connection.send((number, rank, os.getpid()))
    jobs: queue.Queue[bytes] = queue.Queue()
    Thread(target=receive, args=(connection, jobs), daemon=True).start()
    store = dist.FileStore(str(folder / f"store-{number}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
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
    wait_for_words(Path(sys.argv[1]))
