"""Where a measurement was made: hardware, versions, settings, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

import layerpace as lp

from . import peers

ROOT = Path(__file__).resolve().parent.parent
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE = 1 << 20  # a usual size of L2, where the system does not say
VARIABLES = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "LD_PRELOAD")


def describe() -> dict[str, Any]:
    """What a reader needs to judge figures, and to measure them again."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "caches": caches(),
            "system": platform.platform(),
            "transparent_hugepages": _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
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
        if _read(index / "type") != "Instruction":
            size = _read(index / "size")
            if size and size.endswith("K"):
                found[f"L{_read(index / 'level')}"] = int(size[:-1]) * 1024
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


def _cpu_model() -> str:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _git(*arguments: str) -> str | None:
    """What git prints; None outside of a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
