"""Step times on sharded parameters: layerpace and others on the same DTensors of FSDP2, in all processes at once.

    python -m benchmarks.sharding                       2 processes with a thread each, both sets
    python -m benchmarks.sharding --sets G --rounds 51  some of it
    python -m benchmarks.sharding --quick               seconds, on few tiny tensors, to try it

A time is that of `optimizer.step()` from when all processes are there until the last one is done. Methods take turns,
in an order that is shuffled anew each round and the same in all processes. Prints a table for each set, with the
collectives that a step makes, and writes OUT/sharding.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim import Optimizer

from . import machine
from .measure import GRADIENT_RMS, LARGEST_DRIFT, SEED, WEIGHT_RMS, figures
from .methods import METHODS, UNIT, Method
from .shapes import ParameterSet, Shapes

ADAMS = {"fused": UNIT, "foreach": "torch Adam foreach", "default": "torch Adam"}
WARMUP = 3
PATIENCE = timedelta(seconds=120)  # of a collective: a method may have failed in one process alone


def transformer(blocks: int, width: int, words: int) -> Shapes:
    """The tensors of a transformer with learned positions, norms before and after, and a head of its own."""
    block: Shapes = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    ends: Shapes = [(words, width), (256, width), (2, width), (width,), (width,), (width,), (width,), (words, width)]
    return [*ends, *block * blocks]


SETS = {
    "G": ParameterSet("200 tensors of a transformer", transformer(16, 192, 5000)),
    "T": ParameterSet("200 small tensors", [(64, 32)] * 200),
}
METHODS_HERE = [method for method in METHODS if method.sets is None or method.name == "LAMB, reference"]
METHODS_HERE = [method for method in METHODS_HERE if not method.name.startswith(("torch AdamW", "torch SGD"))]


class Sharded(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        made = [torch.empty(shape).normal_(0, WEIGHT_RMS, generator=generator) for shape in shapes]
        self.tensors = nn.ParameterList([nn.Parameter(tensor) for tensor in made])


class Race:
    """This process's part: the methods step one set of sharded weights in turn, each with its own state.

    Attributes:
        skipped: name -> why a method is not measured.
        collectives: name -> collectives in a step after the first.
    """

    def __init__(self, shapes: Shapes, methods: Sequence[Method]) -> None:
        model = Sharded(shapes)
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        self.params = list(model.parameters())
        generator = torch.Generator().manual_seed(SEED + 1 + dist.get_rank())
        for p in self.params:
            p.grad = torch.zeros_like(p.detach())
            local(p.grad).normal_(0, GRADIENT_RMS, generator=generator)
        self.gradients = [local(p.grad).clone() for p in self.params if p.grad is not None]
        self.writers = {method.name for method in methods if method.writes_gradients}
        self.norm = self._norm()
        self.skipped: dict[str, str] = {}
        self.collectives: dict[str, int] = {}
        self.optimizers: dict[str, Optimizer] = {}
        for method in methods:
            self._admit(method)

    def _admit(self, method: Method) -> None:
        """Let a method take part if it can step twice in every process."""
        reason = None
        try:
            optimizer = method.make(self.params)  # type: ignore[arg-type]
            optimizer.step()
            with CommDebugMode() as counted:
                optimizer.step()
        except ImportError as error:
            reason = str(error)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:160]}"
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason)
        self._restore_gradients()
        failed = [why for why in reasons if why is not None]
        if failed:
            self.skipped[method.name] = failed[0]
        else:
            self.optimizers[method.name] = optimizer
            self.collectives[method.name] = counted.get_total_counts()

    def run(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each method in each round, in this process."""
        order, times = list(self.optimizers), {name: list[float]() for name in self.optimizers}
        shuffled = random.Random(SEED)
        for done in range(WARMUP + rounds):
            shuffled.shuffle(order)
            for name in order:
                seconds = self._time(name)
                if done >= WARMUP:
                    times[name].append(seconds)
        self._check_health()
        return times

    def _time(self, name: str) -> float:
        step = self.optimizers[name].step
        gc.disable()
        try:
            dist.barrier()
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
        finally:
            gc.enable()
        if name in self.writers:
            self._restore_gradients()
        return seconds

    def _restore_gradients(self) -> None:
        for p, gradient in zip(self.params, self.gradients, strict=True):
            if p.grad is not None:
                local(p.grad).copy_(gradient)

    def _norm(self) -> float:
        return math.sqrt(sum(float(local(p).double().square().sum()) for p in self.params))

    def _check_health(self) -> None:
        """Raise RuntimeError where times would mean nothing."""
        drift = abs(self._norm() / self.norm - 1)
        if not drift <= LARGEST_DRIFT:  # nan, too
            raise RuntimeError(f"the norm of the weights drifted by {drift:.1%}: lower the learning rates")
        for p, gradient in zip(self.params, self.gradients, strict=True):
            if p.grad is None or not torch.equal(local(p.grad), gradient):
                raise RuntimeError("a method wrote p.grad: mark it with writes_gradients")
        for name, optimizer in self.optimizers.items():
            for state in optimizer.state.values():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.is_floating_point():
                        sizes = local(value).abs()
                        tiny = (sizes > 0) & (sizes < torch.finfo(torch.float32).tiny)
                        if not bool(sizes.isfinite().all()) or bool(tiny.any()):
                            raise RuntimeError(f"{key} of {name} got inf, nan or denormal numbers")


def local(tensor: Tensor) -> Tensor:
    """The shard of this process."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rank_main(options: argparse.Namespace) -> None:
    """Measure as one of the processes; rank 0 writes what all have found into OUT/sharding.json."""
    torch.set_num_threads(1)
    store = dist.FileStore(options.store, options.processes)
    dist.init_process_group("gloo", store=store, rank=options.rank, world_size=options.processes, timeout=PATIENCE)
    results: dict[str, Any] = machine.describe() | {
        "command": " ".join(["python -m benchmarks.sharding", *options.arguments]),
        "settings": {"processes": options.processes, "threads": 1, "rounds": options.rounds, "quick": options.quick},
        "sets": {},
    }
    for key in options.sets:
        chosen = SETS[key].small() if options.quick else SETS[key]
        race = Race(chosen.shapes, METHODS_HERE)
        mine = race.run(options.rounds)
        every: list[Any] = [None] * options.processes
        dist.all_gather_object(every, mine)
        # A step is done when the last process is.
        slowest = {name: [max(row) for row in zip(*(one[name] for one in every), strict=True)] for name in mine}
        found = {name: asdict(figure) for name, figure in figures(slowest).items()}
        for name, row in found.items():
            row["collectives"] = race.collectives[name]
            for variant, adam in ADAMS.items():
                row[f"to_{variant}"] = row["ms"] / found[adam]["ms"] if adam in found else None
        results["sets"][key] = {
            "title": chosen.title,
            "tensors": len(chosen.shapes),
            "entries": chosen.entries,
            "methods": found,
            "skipped": race.skipped,
        }
        del race
        gc.collect()
    if options.rank == 0:
        draft = options.out / "sharding.json.part"
        draft.write_text(json.dumps(results, indent=1) + "\n")
        draft.replace(options.out / "sharding.json")
    dist.barrier()
    dist.destroy_process_group()


def table(result: dict[str, Any]) -> Table:
    """The printed table of one set, fastest first."""
    title = f"{result['title']}: {result['tensors']} tensors, {result['entries'] / 1e6:.3g}M entries"
    printed = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    printed.add_column("method")
    for heading in ("ms", "quartiles", *(f"to {variant}" for variant in ADAMS), "by round", "collectives"):
        printed.add_column(heading, justify="right")
    for name, row in sorted(result["methods"].items(), key=lambda item: item[1]["ms"]):
        ratios = [row[f"to_{variant}"] for variant in ADAMS]
        printed.add_row(
            name, f"{row['ms']:.3g}", f"{row['q1']:.3g}-{row['q3']:.3g}",
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            f"{row['ratio_by_round']:.2f}", str(row["collectives"]),
        )  # fmt: skip
    return printed


def main() -> None:
    options = arguments()
    if options.rank is not None:
        return rank_main(options)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.sharding", *sys.argv[1:], "--store", f"{folder}/store", "--rank"]
        ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(options.processes)]
        try:
            while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
                time.sleep(0.1)
        finally:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
                rank.wait()
    if any(rank.returncode for rank in ranks):
        sys.exit(f"processes ended with {[rank.returncode for rank in ranks]}; nothing was written")
    results = json.loads((options.out / "sharding.json").read_text())
    out = Console(width=None if sys.stdout.isatty() else 130)
    cpu, cores, settings = results["machine"]["cpu"], results["machine"]["cores"], results["settings"]
    out.print(
        f"{cpu}, {cores} cores, {settings['processes']} gloo processes with a thread each, FSDP2; torch "
        f"{results['versions']['torch']}, backend {results['backend']}; ratios of medians to torch's Adam, fused, "
        f"foreach and by default, and of rounds to the fused one{'; QUICK: NO MEASUREMENT' * settings['quick']}\n",
        highlight=False,
    )
    for result in results["sets"].values():
        out.print(table(result), end="\n\n")
    for line in sorted(
        {f"{name}: {why}" for result in results["sets"].values() for name, why in result["skipped"].items()}
    ):
        out.print(f"not measured: {line}", highlight=False, soft_wrap=True)
    out.print(f"figures: {options.out / 'sharding.json'}", soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    add("--processes", type=int, default=2, help="default: %(default)s")
    add("--rounds", type=int, default=31, help=f"after {WARMUP} to warm up; default: %(default)s")
    add("--out", type=Path, default=Path("runs/bench"), help="folder of the results; default: %(default)s")
    add("--quick", action="store_true", help="two rounds on few tiny tensors, which say nothing but that it works")
    add("--rank", type=int, help=argparse.SUPPRESS)
    add("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("processes", "rounds"):
        if getattr(options, name) < (2 if name == "rounds" else 1):
            parser.error(f"--{name} {getattr(options, name)} is too small")
    options.rounds = 2 if options.quick else options.rounds
    options.arguments = sys.argv[1:] if options.rank is None else sys.argv[1 : sys.argv.index("--store")]
    return options


if __name__ == "__main__":
    main()
