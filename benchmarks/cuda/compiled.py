"""LAMB of the reference backend under torch.compile, on one set, in a process of its own, which has a time limit.

Compiling hundreds of tensors' steps can take minutes, and cannot be stopped within a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

import layerpace as lp
from layerpace.engine.entries import Scaling
from layerpace.engine.step import layerwise_step

from .. import traffic
from ..measure import Effort
from ..methods import BY_NAME, DECAY, LR, UNIT, Method
from .device import Device, Dry, Gpu
from .methods import DRY_SETS, GPU_SETS, SMALL
from .turns import measure_set

ROOT = Path(__file__).resolve().parents[2]
MARK = "compiled: "
WARM = 16  # steps of the compiled function before it is timed: torch compiles again where its guesses fail
PLAIN, COMPILED = "LAMB, reference", "LAMB, reference, torch.compile"


def run(limit_s: float, dry: bool) -> dict[str, Any]:
    """What `main` prints, from another process; {"failed": why} if it fails or takes longer than ``limit_s``."""
    command = [sys.executable, "-m", "benchmarks.cuda.compiled", *["--dry-run"] * dry]
    begun = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    why = ""
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and the compiler's own processes, which may keep the pipe open
        output, _ = process.communicate()
        why = f"not done within {limit_s:.0f} s"
    seconds = round(time.monotonic() - begun, 1)
    for line in output.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found | {"seconds": seconds}
    return {"failed": why or f"exit status {process.returncode}: {output.strip()[-400:]}", "seconds": seconds}


def measure(device: Device) -> dict[str, Any]:
    """Figures of the unit, of the reference, and of the reference compiled; the number of graphs it was cut into."""
    begun = time.monotonic()
    chosen = (DRY_SETS if device.dry else GPU_SETS)[SMALL]
    took: list[float] = []

    def plain(params: list[Parameter]) -> Optimizer:
        return lp.LAMB(
            params, lr=torch.tensor(LR, device=device.device), weight_decay=DECAY, backend="reference", capturable=True
        )

    def compiled(params: list[Parameter]) -> Optimizer:
        optimizer: Any = plain(params)
        optimizer.step()  # makes the plan of a step, which is no work for a compiler
        start = time.monotonic()

        @torch.no_grad()
        def traced() -> None:  # `optimizer.step` keeps the compiler out
            made = optimizer._cache._build(optimizer, Scaling())
            layerwise_step(made, Scaling())

        optimizer.step = torch.compile(traced, backend="eager" if device.dry else "inductor")
        for _ in range(2 if device.dry else WARM):
            optimizer.step()
        device.free_bytes()  # waits for the device
        took.append(round(time.monotonic() - start, 1))
        return optimizer  # type: ignore[no-any-return]

    makes = {PLAIN: plain, COMPILED: compiled}
    methods = [BY_NAME[UNIT], *(Method(name, make, traffic.LAMB, 8, scratch=16) for name, make in makes.items())]
    found = measure_set(device, chosen, methods, False, Effort(3 if device.dry else 15, 1), begun + 600)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found | {"set": SMALL, "compiling_s": took[0] if took else None, "graphs": graphs}


def main() -> None:
    device: Device = Dry() if "--dry-run" in sys.argv[1:] else Gpu()
    if device.dry:
        torch.set_num_threads(1)
    print("\n" + MARK + json.dumps(measure(device)), flush=True)


if __name__ == "__main__":
    main()
