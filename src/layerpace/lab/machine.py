"""Where figures were measured: processor, versions, and the commit of the sources."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).resolve().parents[1]


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory in GiB, the GPU if ``device`` is one; versions of Python, torch and layerpace."""
    import layerpace

    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "layerpace": layerpace.__version__,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return found


def cpu_model() -> str:
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def commit() -> str | None:
    """Of the sources that run, "+" behind it where they have been changed since; None outside of a repository."""
    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(SOURCES))
    return None if head is None else head + ("+" if changed else "")


def git(*arguments: str) -> str | None:
    """What git prints in the folder of the sources; None where it cannot."""
    try:
        done = subprocess.run(["git", *arguments], cwd=SOURCES, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
