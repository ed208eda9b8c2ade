"""Where a measurement was made: hardware, versions, settings, command."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

import layerpace as lp
from layerpace.lab.machine import cpu_model, git, memory_gib, read

from . import peers

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE = 1 << 20  # a usual size of L2, where the system does not say
VARIABLES = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "LD_PRELOAD")


def describe() -> dict[str, Any]:
    """What a reader needs to judge figures, and to measure them again."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": memory_gib(),
            "caches": caches(),
            "system": platform.platform(),
            "transparent_hugepages": read(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "layerpace": lp.__version__,
            **peers.versions(),
        },
        "capability": torch.backends.cpu.get_cpu_capability(),
        "backend": _backend(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def caches() -> dict[str, int]:
    """Bytes of the caches that one core sees, by level; {} where the system does not say."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        if read(index / "type") != "Instruction":
            size = read(index / "size")
            if size and size.endswith("K"):
                found[f"L{read(index / 'level')}"] = int(size[:-1]) * 1024
    return found


@cache
def cache_bytes() -> int:
    """Bytes of a core's own large cache, in which a tensor may wait for its second pass."""
    return caches().get("L2", UNKNOWN_CACHE)


def _backend() -> str:
    """What "auto" comes to: "cpu" where this build has the fused step, else "reference"."""
    try:
        lp.LAMB([torch.nn.Parameter(torch.ones(2, 2))], backend="cpu")
    except ValueError:
        return "reference"
    return "cpu"
