"""Time of a whole optimizer step, as a ratio to torch's fused Adam in the same run.

    python benchmarks/step_time.py [--sets S1 S4] [--threads 2] [--rounds 15]

Methods take turns, so that a slow moment of the machine meets all of them; the median of each counts. Gradient
collection and Python are included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from shapes import SETS, Shapes

import layerpace as lp

METHODS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "torch Adam fused": lambda p: torch.optim.Adam(p, fused=True),
    "torch Adam": lambda p: torch.optim.Adam(p),
    "Adam": lambda p: lp.Layerwise(p, direction="adam", rule="identity", lr=1e-3),
    "LAMB": lambda p: lp.LAMB(p, weight_decay=0.01),
    "LARS": lambda p: lp.LARS(p, lr=1.0, weight_decay=1e-4),
    "PercentDelta": lambda p: lp.PercentDelta(p),
    "Layca": lambda p: lp.Layca(p),
}


def parameters(shapes: Shapes) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.05)
        p.grad = torch.randn(shape, generator=generator) * 1e-3
        made.append(p)
    return made


def medians(shapes: Shapes, rounds: int) -> dict[str, float]:
    """Milliseconds of a step, by method. All share one set of parameters; each has its own state."""
    shared = parameters(shapes)
    optimizers = {name: make(shared) for name, make in METHODS.items()}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(rounds + 2):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["S1", "S3", "S4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, layerpace {lp.__version__}, {options.threads} threads")
    for key in options.sets:
        title, shapes = SETS[key]
        count = sum(torch.Size(shape).numel() for shape in shapes)
        found = medians(shapes, options.rounds)
        unit = found["torch Adam fused"]
        print(f"\n{key} {title}: {len(shapes)} tensors, {count / 1e6:.1f}M entries; unit {unit:.1f} ms")
        for name, value in found.items():
            print(f"  {name:18s} {value / unit:7.2f}  {value:9.1f} ms")


if __name__ == "__main__":
    main()
