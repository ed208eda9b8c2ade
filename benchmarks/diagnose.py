"""Hits and false alarms of `layerpace.monitors.diagnose`, on small trainings.

    python -m benchmarks.diagnose               every broken training, and all healthy ones (some minutes)
    python -m benchmarks.diagnose --quick       one seed, one schedule
    python -m benchmarks.diagnose --lines       also how hits and false alarms change with each threshold

A broken training counts as found if one of the findings that it stands for has at least its severity and names the
right layer. A false alarm is an error or a warning on a healthy training; notes are counted apart. Each seed makes
another network and other batches. A training that ends below 50% accuracy is no example of a healthy one, and is left
out of the count.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tests.monitors import broken

from layerpace.monitors.diagnose import SEVERITIES, Finding, Thresholds, diagnose
from layerpace.monitors.run import Run

STEPS = 200
SEEDS = 1
LEARNED = 0.5  # accuracy of a training that counts as healthy
VARIANTS: tuple[dict[str, float], ...] = (
    {},
    {"died": 1.5},
    {"died": 6},
    {"out_of_step": 1.0},
    {"out_of_step": 2.0},
    {"split": 1.0},
    {"split": 2.0},
    {"update_high": 0.03},
    {"update_high": 0.3},
    {"jump": 0.3},
    {"jump": 3},
    {"update_low": 1e-5},
    {"update_low": 1e-8},
    {"outgrown": 3, "grown_gain": 3},
    {"outgrown": 30, "growth": 300},
    {"depth": 1.5},
    {"depth": 6},
    {"gain_distance": 1.0, "gain_low": 0.1, "gain_high": 10},
    {"gain_distance": 2.0},
    {"clip_always": 0.9},
    {"loss_growth": 1.5},
    {"loss_growth": 10},
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.diagnose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds))
    start = time.monotonic()
    ill = report_broken(seeds)
    print()
    well = report_healthy(seeds, options.quick)
    if options.lines:
        print()
        report_lines(ill, well)
    print(f"\n{STEPS} steps, a record in every fifth; {time.monotonic() - start:.0f} s, torch {torch.__version__}")


def report_broken(seeds: Sequence[int]) -> list[tuple[broken.Broken, Run]]:
    """A row for each broken training: how often it was found, and by what."""
    print("| broken on purpose | found | by (layer named) | further warnings and errors |")
    print("|---|---|---|---|")
    runs, hits = [], 0
    for name, case in broken.BROKEN.items():
        found, kinds, further = 0, Counter[str](), Counter[str]()
        for seed in seeds:
            run = broken.train(case, case.steps or STEPS, seed)
            runs.append((case, run))
            findings = diagnose(run)
            right = [finding for finding in findings if broken.tells(case, finding)]
            found += bool(right)
            kinds.update(sorted({finding.kind for finding in right}))
            further.update(sorted({f.kind for f in alarms(findings) if f.kind not in case.kinds}))
        hits += found
        layer = f" (`{case.layer}`)" if case.layer else ""
        print(f"| {name} | {found} of {len(seeds)} | {', '.join(kinds)}{layer} | {', '.join(further)} |", flush=True)
    print(f"\nfound: {hits} of {len(runs)}")
    return runs


def report_healthy(seeds: Sequence[int], quick: bool) -> list[Run]:
    """A row for each network and method: false alarms, over schedules and seeds."""
    print("| healthy | runs | lowest accuracy | errors | warnings | notes | of which |")
    print("|---|---|---|---|---|---|---|")
    counts, notes, learned, left = Counter[str](), Counter[str](), [], Counter[str]()
    schedules = list(broken.SCHEDULES)[: 1 if quick else None]
    for network, method in itertools.product(broken.NETWORKS, broken.METHODS):
        mine, told, accuracies = Counter[str](), Counter[str](), []
        for schedule, seed in itertools.product(schedules, seeds):
            run = broken.train(broken.healthy(network, method, schedule), STEPS, seed)
            if accuracy(run) < LEARNED:
                left[f"{network}, {method}"] += 1
                continue
            accuracies.append(accuracy(run))
            learned.append(run)
            findings = diagnose(run)
            mine.update(finding.severity for finding in findings)
            told.update(f"{finding.kind} ({finding.severity})" for finding in findings)
            notes.update(finding.kind for finding in findings if finding.severity == "note")
        counts += mine
        figures = " | ".join(str(mine[severity]) for severity in SEVERITIES)
        worst = f"{min(accuracies):.0%}" if accuracies else ""
        print(f"| {network}, {method} | {len(accuracies)} | {worst} | {figures} | {', '.join(told)} |", flush=True)
    rates = ", ".join(f"{counts[severity] / len(learned):.3f} {severity}s" for severity in SEVERITIES)
    print(f"\na healthy run: {rates}; {len(learned)} runs")
    print("notes: " + ", ".join(f"{kind} {count}" for kind, count in notes.most_common()))
    print("left out, below 50% accuracy: " + (", ".join(f"{name} ({n})" for name, n in left.items()) or "none"))
    return learned


def report_lines(ill: Sequence[tuple[broken.Broken, Run]], well: Sequence[Run]) -> None:
    """A row for each variant of the thresholds: hits, and healthy trainings with an error or a warning."""
    print("| thresholds | broken found | healthy with an alarm |")
    print("|---|---|---|")
    for variant in VARIANTS:
        lines = Thresholds(**variant)  # type: ignore[arg-type]
        hits = sum(any(broken.tells(case, finding) for finding in diagnose(run, lines)) for case, run in ill)
        false = sum(bool(alarms(diagnose(run, lines))) for run in well)
        name = ", ".join(f"{key} {value:g}" for key, value in variant.items()) or "as they are"
        print(f"| {name} | {hits} of {len(ill)} | {false} of {len(well)} |", flush=True)


def alarms(findings: Iterable[Finding]) -> list[Finding]:
    """Errors and warnings."""
    return [finding for finding in findings if finding.severity != "note"]


def accuracy(run: Run) -> float:
    """Share of the last batches that were right before the step."""
    last = run.scalars["accuracy"].values[-5:]
    return sum(last) / len(last)


if __name__ == "__main__":
    main()
