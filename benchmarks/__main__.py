"""Step times of layerpace and of other libraries, all in one run.

    python -m benchmarks                                  everything
    python -m benchmarks --parts steps --sets S1 S4       some of it
    python -m benchmarks --quick                          seconds, on tiny tensors, to try the harness

Prints a table for each part and writes OUT/results.json, which grows part by part, and OUT/*.png.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import machine, memory, monitors, plots, steps, sweeps
from .measure import SEED, Effort
from .methods import BY_NAME, METHODS, UNIT
from .progress import Bars
from .shapes import SETS
from .traffic import ceiling

SHARE_OF_MEMORY = 0.6  # of what is free, for weights and states
SWEEPS = ("layers", "size", "threads")
PARTS = ("steps", "monitors", *SWEEPS)
WATCHED_SETS = ("S1", "S2")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    effort = Effort(2, 1) if options.quick else Effort(options.rounds)
    longer = effort if options.quick else Effort(options.rounds, seconds=0.5)  # short steps get more rounds
    budget = int(options.memory_gib * 2**30) if options.memory_gib else int(SHARE_OF_MEMORY * memory.available())
    methods = [method for method in METHODS if not options.methods or method.name in {*options.methods, UNIT}]
    results: dict[str, Any] = machine.describe() | {
        "settings": {
            "threads": options.threads, "rounds": effort.rounds, "warmup": effort.warmup, "seed": SEED,
            "quick": options.quick, "memory_budget_gib": round(budget / 2**30, 2), "unit": UNIT,
        },
        "ceiling": ceiling(1 / 64 if options.quick else 1.0, options.threads),
        "steps": {},
        "monitors": {},
        "sweeps": {},
    }  # fmt: skip
    out = Console(width=None if os.isatty(1) else 130)
    out.print(headline(results), highlight=False, soft_wrap=True)
    with Bars(Console(stderr=True)) as bars:
        for key in options.sets if "steps" in options.parts else ():
            chosen = SETS[key].small() if options.quick else SETS[key]
            found = steps.measure_set(key, chosen, methods, effort, budget, results["ceiling"], bars)
            results["steps"][key] = found
            out.print(steps.table(key, found), end="\n\n")
            save(results, options.out)
        for key in [key for key in options.sets if key in WATCHED_SETS] if "monitors" in options.parts else ():
            chosen = SETS[key].small() if options.quick else SETS[key]
            results["monitors"][key] = monitors.measure_set(key, chosen, longer, bars)
            out.print(monitors.table(key, results["monitors"][key]), end="\n\n")
            save(results, options.out)
        for name, sweep in sweeps.sweeps(options.threads, options.quick).items():
            if sweep.axis in options.parts or name in options.parts:
                results["sweeps"][name] = sweeps.measure_sweep(sweep, longer, budget, bars)
                out.print(sweeps.table(results["sweeps"][name]), end="\n\n")
                save(results, options.out)
    for path in plots.draw(results["sweeps"], subtitle(results), options.out):
        out.print(f"picture: {path}", soft_wrap=True)
    reasons = {f"{name}: {why}" for found in results["steps"].values() for name, why in found["skipped"].items()}
    for line in sorted(reasons):
        out.print(f"not measured: {line}", highlight=False, soft_wrap=True)
    out.print(f"figures: {save(results, options.out)}", soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add(
        "--sets",
        nargs="+",
        choices=SETS,
        default=list(SETS),
        help="parameter sets of the parts steps and monitors (S1, S2); default: all",
    )
    add("--methods", nargs="+", choices=BY_NAME, metavar="NAME", help=f"of the part steps, beside {UNIT}; default: all")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1), help="default: %(default)s")
    add("--rounds", type=int, default=15, help="after three to warm up; default: %(default)s")
    add("--memory-gib", type=float, help=f"for weights and states; default: {SHARE_OF_MEMORY:.0%}% of what is free")
    add("--out", type=Path, default=Path("runs/bench"), help="folder of the results; default: %(default)s")
    add("--quick", action="store_true", help="two rounds on tiny tensors, which say nothing but that it works")
    options = parser.parse_args()
    for name in ("threads", "rounds"):
        if getattr(options, name) < (2 if name == "rounds" else 1):
            parser.error(f"--{name} {getattr(options, name)} is too small")
    return options


def headline(results: dict[str, Any]) -> str:
    """Two lines: where and with what this was measured."""
    hardware, versions, ceiling = results["machine"], results["versions"], results["ceiling"]
    peers = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, {results['settings']['threads']} threads; {peers}; "
        f"backend {results['backend']}\n"
        f"memory: {ceiling['update']:.1f} GB/s updating, {ceiling['read']:.1f} GB/s reading ({ceiling['source']})\n"
        f"ratios to {UNIT}; GB/s of the least traffic that a method needs\n"
    )


def subtitle(results: dict[str, Any]) -> str:
    quick = "QUICK: NO MEASUREMENT; " if results["settings"]["quick"] else ""
    return (
        f"{quick}{results['machine']['cpu']}, {results['settings']['threads']} threads where not said otherwise, "
        f"torch {results['versions']['torch']}, backend {results['backend']}, {results['date'][:10]}"
    )


def save(results: dict[str, Any], folder: Path) -> Path:
    """Write results.json whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)
    return path


if __name__ == "__main__":
    main()
