"""The device of `python -m benchmarks.gpu`: its clock, its memory, its graphs; and a stand-in for a dry run."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

Step = Callable[[], object]

UNKNOWN_L2 = 50 << 20  # of an H100, where torch does not say
SPACER = (
    256 << 20
)  # bytes: several times L2, and a tenth of a millisecond, in which the host puts a replay in the queue
BLOCK = 512  # bytes: torch's allocator hands out multiples of it
COPIES = 20


class Gpu:
    """The current CUDA device. Times are of its own events."""

    clock = "device events"
    dry = False
    warm = 3  # steps before anything is timed

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self.device)
        self.l2 = int(getattr(properties, "L2_cache_size", 0)) or UNKNOWN_L2
        self._spacer = torch.ones(max(SPACER, 5 * self.l2) // 4, device=self.device)

    def describe(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "l2_bytes": self.l2,
            "cuda": torch.version.cuda,
            "nvidia_smi": _nvidia_smi(),
        }

    def seconds(self, work: Step, queued: bool) -> float:
        """Time of ``work`` from a cold L2.

        Args:
            work: what to time.
            queued: the device is busy until the host has put all of ``work`` into its queue, so that the time is the
                device's alone. Otherwise the device is idle when ``work`` begins, and waits for the host.
        """
        start: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._spacer.sum()  # which reads: writes would leave L2 full of what the step must then move to memory
        if not queued:
            torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def capture(self, optimizer: Optimizer) -> Step:
        """One step as a CUDA graph; the optimizer has made steps already. Returns what replays it."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        torch.cuda.synchronize()
        return graph.replay

    def warm_up(self, optimizer: Optimizer, steps: int) -> None:
        """Steps on a stream of their own, as torch asks for before a capture."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(steps):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def free_bytes(self) -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def allocated(self) -> int | None:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(self.device)

    def peak(self, work: Step) -> int | None:
        """Most bytes that are allocated at any time during ``work``."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(self.device)

    def launches(self, work: Step) -> dict[str, int]:
        """Kernels, copies and fills that ``work`` starts, as the profiler's trace has them.

        Raises:
            RuntimeError: the profiler saw nothing, as where a container may not use it.
        """
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            with torch.profiler.profile(activities=activities) as seen:
                work()
                torch.cuda.synchronize()
            seen.export_chrome_trace(str(path))
            trace = json.loads(path.read_text(errors="replace"), strict=False)["traceEvents"]
        return count_launches(trace)

    def copy_bandwidth(self, nbytes: int = 1 << 30) -> dict[str, float]:
        source = torch.ones(nbytes // 4, device=self.device)
        return _copies(self, source, torch.empty_like(source))


class Dry:
    """The CPU in the place of the device: the script's logic runs, and its times mean nothing."""

    clock = "wall clock of a dry run: NO MEASUREMENT"
    dry = True
    warm = 1
    l2 = 1 << 8

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def describe(self) -> dict[str, Any]:
        return {"name": "none: dry run", "l2_bytes": self.l2}

    def seconds(self, work: Step, queued: bool) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def capture(self, optimizer: Optimizer) -> Step:
        return optimizer.step

    def warm_up(self, optimizer: Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.step()

    def free_bytes(self) -> int:
        return 1 << 28

    def allocated(self) -> int | None:
        return None

    def peak(self, work: Step) -> int | None:
        return None

    def launches(self, work: Step) -> dict[str, int]:
        raise RuntimeError("a dry run launches nothing")

    def copy_bandwidth(self) -> dict[str, float]:
        source = torch.ones(1 << 18)
        return _copies(self, source, torch.empty_like(source))


Device = Gpu | Dry


def count_launches(trace: list[dict[str, Any]]) -> dict[str, int]:
    """Events of a trace by kind; RuntimeError if there are none of a device."""
    found = {"kernels": 0, "memcpys": 0, "memsets": 0}
    kinds = {"kernel": "kernels", "gpu_memcpy": "memcpys", "gpu_memset": "memsets"}
    for event in trace:
        kind = kinds.get(str(event.get("cat", "")).lower())
        if kind is not None and event.get("ph") == "X":
            found[kind] += 1
    if not any(found.values()):
        raise RuntimeError("the profiler saw no kernel: it may lack the right to trace the device")
    return found


def state_bytes(optimizer: Optimizer, device: torch.device) -> int:
    """What the state takes on the device, in the allocator's blocks."""
    tensors = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    return sum(-(-x.nbytes // BLOCK) * BLOCK for x in tensors if x.device == device)


def _copies(device: Device, source: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """GB/s (1e9 bytes read and written) of copies on the device; the median is the ceiling."""
    times = [device.seconds(lambda: target.copy_(source), queued=True) for _ in range(COPIES + 3)][3:]
    moved = 2 * source.nbytes / 1e9
    return {"gb_per_s": moved / statistics.median(times), "best": moved / min(times), "gib": source.nbytes / 2**30}


def _nvidia_smi() -> str | None:
    """Driver, power limit and clocks, if the tool is there."""
    if shutil.which("nvidia-smi") is None:
        return None
    fields = "name,driver_version,power.limit,clocks.max.sm,clocks.max.memory"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
