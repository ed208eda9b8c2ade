"""The connection to a Ray cluster: errors come soon and are short, nothing is printed, signals stay the driver's."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from ..errors import LabError, UsageError, one_line

REACH = 5.0  # seconds for a TCP connection to the head
STORE = 80 * 2**20  # bytes of the object store of a Ray that is started here: only a few words go through it


def connect(address: str, cpus: int | None) -> Any:
    """The module `ray`, connected; `cpus`: of a cluster that is started here, None for the machine's.

    Raises:
        LabError: nothing answers there, or Ray cannot start.
        UsageError: the address is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a node that dies Ray prints two pages to stdout, whatever the level of its log: skip every line of them.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    if address not in ("local", "auto"):
        reach(address)
    with signals_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import ray

        if ray.is_initialized():
            raise LabError("--executor ray: this process is connected to a Ray cluster already")
        own: dict[str, Any] = {}
        if address == "local":
            own = {"include_dashboard": False, "object_store_memory": STORE, "num_cpus": cpus}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
            raise LabError(f"--executor ray: no Ray cluster at {address}: {one_line(error)[:200]}") from error
    return ray


def reach(address: str) -> None:
    """Ray itself tries for minutes to reach a host that is not there."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--address {address}: write HOST:PORT of the head, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except OSError as error:
        raise LabError(f"--address {address}: {error.strerror or one_line(error)}") from None


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; the driver's own way to stop must stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reason(error: BaseException) -> str:
    """The gist of an error of Ray's, which are pages: an exception in a task, or else the first sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "RayTaskError" in type(error).__name__:
        return lines[-1]
    return f"{type(error).__name__}: {lines[0].partition('. ')[0]}"[:200]
