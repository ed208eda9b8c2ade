"""Do rates carry over? ``python -m benchmarks.equivalent --out runs/equivalent``; stopped, it resumes.

Stated before the first run. Three tasks: the digits network (a CNN), the spirals example (an MLP), a tiny character
GPT. Two sources, AdamW (decay 0.01) and SGD with momentum 0.9 (decay 1e-4), each at the best of six rates a factor of 3
apart, by held-out score, seed 0. From the source's recorded run of seed 0 come the rates of five methods. Each method
and the source then train on seeds 1, 2 and 3 with everything else alike. Measured: test score of the method minus that
of the source, paired by seed. A rate carries over if the 95% t interval of the difference reaches -2 points or more on
all three tasks; else it is said not to. The same methods at their default rates are run, too, for comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from layerpace.lab import single
from layerpace.monitors import equivalent_rates, load

ROOT = Path(__file__).parents[1]
TASKS: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "steps": 200},
    "spirals": {"task": f"{ROOT / 'docs/examples/own_task.py'}:spirals", "steps": 300},
    "characters": {"task": f"{ROOT / 'benchmarks/characters.py'}:characters", "steps": 300},
}
SOURCES = {
    "AdamW": ("adamw:wd=0.01", [1e-4 * 3**k for k in range(6)]),
    "SGD": ("sgd:momentum=0.9,wd=0.0001", [1e-3 * 3**k for k in range(6)]),
}
SPECS = {
    "LAMB": "lamb:wd={weight_decay}",
    "LARS": "lars:wd={weight_decay},momentum={momentum},coefficient=1,exclude=auto",
    "PercentDelta": "percent-delta",
    "Layca": "layca",
    "Layerwise": "{direction}+relative_l1",
}
SEEDS = (1, 2, 3)
T_QUANTILE = 4.303  # of 2 degrees of freedom, two-sided 95%


def run(
    out: Path, task: str, method: str, lr: float | None, seed: int, validation: float = 0.0
) -> tuple[dict[str, Any], Path]:
    request = {**TASKS[task], "method": method, "lr": lr, "seed": seed, "threads": 1, "validation": validation}
    request |= {"record_every": 5, "schedule": "linear"}
    config = single.resolve(request)
    name = "".join(c if c.isalnum() else "-" for c in f"{task}-{method}-{config['lr']:.4g}-{seed}-{validation:g}")
    folder = out / name
    return single.run(config, folder), folder


def spec_of(method: str, options: dict[str, Any]) -> str:
    spec = SPECS[method].format(**options)
    if method == "Layca":
        own = [f"{key}={value}" for key, value in options.items() if key != "lr"]
        spec += ":" + ",".join(own) if own else ""
    return spec


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/equivalent"))
    out = parser.parse_args().out
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        for source, (spec, rates) in SOURCES.items():
            scores = {lr: run(out, task, spec, lr, 0, 0.1)[0].get("validation_score") for lr in rates}
            best = max(rates, key=lambda lr: -math.inf if scores[lr] is None else scores[lr])
            _, folder = run(out, task, spec, best, 0, 0.1)
            found = equivalent_rates(load(folder)[0])
            base = [run(out, task, spec, best, seed)[0]["test_score"] for seed in SEEDS]
            print(f"{task}, {source} at {best:.3g}: {100 * statistics.mean(base):.1f}%", flush=True)
            for method, rate in found.items():
                options = rate.options()
                own = [
                    run(out, task, spec_of(method, options), rate.lr, seed)[0].get("test_score") or 0.0
                    for seed in SEEDS
                ]
                default = run(out, task, spec_of(method, options), None, SEEDS[0])[0].get("test_score") or 0.0
                differences = [100 * (a - b) for a, b in zip(own, base, strict=True)]
                mean = statistics.mean(differences)
                half = T_QUANTILE * statistics.stdev(differences) / math.sqrt(len(SEEDS))
                row = {
                    "task": task,
                    "source": source,
                    "method": method,
                    "lr": rate.lr,
                    "difference": mean,
                    "half": half,
                }
                rows.append({**row, "default": 100 * (default - base[0])})
                interval = f"[{mean - half:+.2f}, {mean + half:+.2f}]"
                also = f"at its default rate {rows[-1]['default']:+.1f}"
                print(f"  {method:13s} lr {rate.lr:8.3g}: {mean:+6.2f} points {interval}; {also}", flush=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    for source in SOURCES:
        for method in SPECS:
            of = [row for row in rows if row["source"] == source and row["method"] == method]
            holds = all(row["difference"] + row["half"] >= -2 for row in of)
            print(f"{source} -> {method}: {'carries over' if holds else 'does not'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
