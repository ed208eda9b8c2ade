"""The step on a CUDA device: first whether it is right, then how fast it is, in one run of a few minutes.

    python -m benchmarks.gpu                    everything, within 8 minutes
    python -m benchmarks.gpu --quick            two sets and few rounds
    python -m benchmarks.gpu --dry-run          on the CPU in Triton's interpreter, to try the script: no measurement

A method that is wrong is reported, is not timed, and makes the exit status 1. What the time does not suffice for is
named. Writes OUT/results.json, which grows part by part, and OUT/gpu.png.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from layerpace.engine.backends import triton

from . import machine
from .cuda import check, compiled, goals, report
from .cuda.device import Device, Dry, Gpu
from .cuda.methods import DRY_SETS, GPU_SETS, OURS, QUICK_SETS, captured, eager, ours
from .cuda.turns import measure_set, parameters
from .measure import SEED, Effort
from .methods import UNIT, Method

CHECK_SHARE = 0.4  # of the minutes, at most, for whether methods are right
COMPILE_SHARE = 0.15  # and for torch.compile
RESERVE_SHARE = 0.08  # and for counting launches, and the report


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the first kernel is made
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and torch sees none (--dry-run tries the script without)")
        return 1
    if not triton.available():
        print(f"benchmarks.gpu: {triton.MISSING}")
        return 1
    return Run(options, sys.argv[1:] if arguments is None else arguments).all()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/bench-gpu"), help="folder of the results; default: %(default)s")
    add("--minutes", type=float, default=8.0, help="in which all must be done; default: %(default)s")
    add("--rounds", type=int, default=25, help="after three to warm up; default: %(default)s")
    add("--quick", action="store_true", help=f"sets {' and '.join(QUICK_SETS)} alone, seven rounds, no torch.compile")
    add("--dry-run", action="store_true", help="on the CPU, tiny tensors, wall clocks: tries the script")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.rounds < 3:
        parser.error(f"--minutes {options.minutes} must be positive, and --rounds {options.rounds} at least 3")
    return options


class Run:
    """All parts, one after the other; ``results`` is what is known so far."""

    def __init__(self, options: argparse.Namespace, arguments: Sequence[str]) -> None:
        self.options, self.begun = options, time.monotonic()
        self.total = 60 * options.minutes
        self.device: Device = Dry() if options.dry_run else Gpu()
        self.sets = DRY_SETS if options.dry_run else GPU_SETS
        if options.quick and not options.dry_run:
            self.sets = {key: GPU_SETS[key] for key in QUICK_SETS}
        self.effort = Effort(3, 0) if options.dry_run else Effort(7 if options.quick else options.rounds)
        self.out = Console(width=None if os.isatty(1) else 150)
        self.doing = "starting"
        self.broken = False  # whether a part failed that should not
        self.left_out: set[str] = set()
        self.results = self.where(arguments) | {
            "ceiling": self.device.copy_bandwidth(), "correctness": None, "sets": {},
            "launches": {"counted": {}, "not_counted": {}}, "compiled": None, "goals": [], "not_measured": [],
        }  # fmt: skip

    def where(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What a reader needs to judge figures, and to measure them again."""
        described = machine.describe()
        described["command"] = " ".join(["python -m benchmarks.gpu", *arguments])
        described["machine"]["gpu"] = self.device.describe()
        described["versions"] |= {"triton": _version("triton"), "cuda": torch.version.cuda}
        described["backend"] = "triton"
        settings = {
            "minutes": self.options.minutes, "rounds": self.effort.rounds, "warmup": self.effort.warmup, "seed": SEED,
            "quick": self.options.quick, "dry_run": self.options.dry_run, "unit": UNIT,
        }  # fmt: skip
        return described | {"settings": settings, "clock": self.device.clock}

    def left(self) -> float:
        """Seconds."""
        return float(self.begun + self.total - time.monotonic())

    def all(self) -> int:
        """Every part; the exit status."""
        guard = threading.Timer(self.total, self.give_up)  # a device that hangs never comes back
        guard.daemon = True
        guard.start()
        try:
            self.say(report.headline(self.results))
            self.check()
            self.time_sets()
            self.compile()
            self.count_launches()
            self.finish()
        finally:
            guard.cancel()
        return 1 if self.results["correctness"]["wrong"] or self.broken else 0

    def check(self) -> None:
        """Which methods are wrong; those, and what there was no time to check, are left out of the rest."""
        until = self.begun + CHECK_SHARE * self.total
        found = check.check(self.device, lambda: time.monotonic() < until, self.note)
        self.results["correctness"] = found
        for line in report.wrong(found):
            self.say(line)
        self.say(check.summary(found) + "\n")
        for name, why in found["not_checked"].items():
            self.miss(f"whether {name} is right: {why}")
        checked = found["eager"].keys() & found["graph"].keys()
        self.left_out = {*found["wrong"], *(name for name in OURS if name not in checked)}
        self.save()

    def time_sets(self) -> None:
        """Step times on every set."""
        modes: dict[str, list[Method]] = {"eager": eager(), "graph": captured(self.device.device)}
        if self.device.dry:
            del modes["graph"]
            self.miss("replays of CUDA graphs: a dry run has none")
        last = self.begun + self.total * (1 - RESERVE_SHARE - COMPILE_SHARE)
        todo = [(key, mode) for key in self.sets for mode in modes]
        for index, (key, mode) in enumerate(todo):
            now, chosen = time.monotonic(), self.sets[key]
            found = self.results["sets"].setdefault(
                key,
                {"title": chosen.title, "tensors": len(chosen.shapes), "entries": chosen.entries, "modes": {}},
            )
            if now > last:
                self.miss(f"{key}, {mode}: no time left")
                continue
            self.note(f"timing {key}, {mode}")
            share = (last - now) / (len(todo) - index)
            until = min(last, now + 2 * share)  # most sets take less than their share
            methods = self.chosen(modes[mode])
            try:
                measured = measure_set(self.device, chosen, methods, mode == "graph", self.effort, until)
            except MemoryError as error:
                self.miss(f"{key}, {mode}: {error}")
                continue
            except Exception as error:
                self.miss(f"{key}, {mode}: {brief(error)}")
                self.broken = True
                continue
            for row in measured["methods"].values():
                row["share_of_ceiling"] = row["gb_per_s"] / self.results["ceiling"]["gb_per_s"]
            found["modes"][mode] = measured
            for name, why in (measured["skipped"] | measured["failed"]).items():
                self.miss(f"{name} on {key}, {mode}: {why}")
            self.broken |= any(name in OURS for name in measured["failed"])
            self.out.print(report.set_table(key, found, mode), end="\n\n")
            self.save()
        self.results["ceiling_at_the_end"] = self.device.copy_bandwidth()

    def compile(self) -> None:
        """torch.compile of the reference, in a process of its own."""
        if self.options.quick:
            self.miss("torch.compile of the reference: --quick leaves it out")
            return
        limit = min(COMPILE_SHARE * self.total, self.left() - RESERVE_SHARE * self.total)
        limit = 1.0 if self.device.dry else limit  # which shows that the limit works; compiling takes half a minute
        if limit <= 0:
            self.miss("torch.compile of the reference: no time left")
            return
        self.note(f"torch.compile of the reference, at most {limit:.0f} s")
        self.device.free_bytes()  # what torch holds but nobody uses goes back to the device
        found = self.results["compiled"] = compiled.run(limit, self.device.dry)
        if "failed" in found and isinstance(found["failed"], str):
            self.miss(f"torch.compile of the reference: {found['failed']}")
        else:
            for name, why in (found["skipped"] | found["failed"]).items():
                self.miss(f"{name} in the process of torch.compile: {why}")
            self.out.print(report.compiled_table(found), end="\n\n")
        self.save()

    def count_launches(self) -> None:
        """After all times, which a profiler that has been on might change."""
        if self.device.dry:
            self.miss("launches: a dry run has none")
            return
        counted, reasons = self.results["launches"]["counted"], self.results["launches"]["not_counted"]
        for way, device in (("plain", None), ("capturable", self.device.device)):
            for key in [key for key in self.sets if key in QUICK_SETS]:
                for method in self.chosen(ours(device=device)):
                    where = f"{key}, {way}"
                    if self.left() < 0.25 * RESERVE_SHARE * self.total:
                        reasons[f"{method.name}, {where}"] = "no time left"
                        continue
                    self.note(f"counting the launches of {method.name}, {where}")
                    try:
                        count = self._launches(key, method)
                    except Exception as error:
                        reasons[f"{method.name}, {where}"] = brief(error)
                    else:
                        counted.setdefault(where, {})[method.name] = count
        if counted:
            self.out.print(report.launch_table(counted), end="\n\n")
        for why in dict.fromkeys(reasons.values()):
            self.miss(f"launches of {sum(reason == why for reason in reasons.values())} steps: {why}")
        self.save()

    def _launches(self, key: str, method: Method) -> dict[str, int]:
        params = parameters(self.sets[key].shapes, self.device.device)
        optimizer = method.make(params)
        for _ in range(self.device.warm):
            optimizer.step()
        if not self.results["launches"]["counted"]:
            with suppress(RuntimeError):
                self.device.launches(optimizer.step)  # the first one starts the tracer, which may miss some of it
        return self.device.launches(optimizer.step)

    def finish(self) -> None:
        """The goals, the picture, and what was left out."""
        results = self.results
        results["goals"] = goals.judge(results)
        results["seconds"] = round(time.monotonic() - self.begun, 1)
        if results["goals"]:
            self.out.print(report.goal_table(results["goals"]), end="\n\n")
        why = report.draw(results, self.options.out / "gpu.png")
        if why is None:
            self.say(f"picture: {self.options.out / 'gpu.png'}")
        else:
            self.miss(f"the picture: {why}")
        for line in results["not_measured"]:
            self.say(f"not measured: {line}")
        self.save()
        self.say(f"figures: {self.options.out / 'results.json'}, {results['seconds']:.0f} s")

    def chosen(self, methods: Sequence[Method]) -> list[Method]:
        """Those that may be timed."""
        return [method for method in methods if method.name not in self.left_out]

    def miss(self, line: str) -> None:
        """Note what was not measured, and why; printed at the end."""
        self.results["not_measured"].append(line)

    def say(self, line: str) -> None:
        self.out.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, doing: str) -> None:
        """What comes next, on stderr."""
        self.doing = doing
        print(f"[{time.monotonic() - self.begun:5.1f} s] {doing}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write results.json whole or not at all."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        path = self.options.out / "results.json"
        draft = path.with_suffix(".json.part")
        draft.write_text(json.dumps(self.results, indent=1) + "\n")
        draft.replace(path)

    def give_up(self) -> None:
        """End the process: the device does not come back."""
        self.results["given_up"] = self.doing
        print(f"given up after {self.total:.0f} s, while {self.doing}", file=sys.stderr, flush=True)
        try:
            self.save()
        finally:
            os._exit(1)


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:400]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    raise SystemExit(main())
