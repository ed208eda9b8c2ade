"""How the data of a result came about: which attempts its runs took, when, where, and by which commit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import machine
from ..records import CONFIG, DONE
from ..sweep.protocol import MADE


@dataclass(frozen=True)
class Made:
    """Where and when the runs of a result were made.

    Attributes:
        command: that makes the result again.
        commits: of layerpace, in the order in which they made runs, "+" behind one if it was changed; "unknown".
        machines: see `layerpace.lab.machine.describe`; more than one where runs were made on several.
        date: UTC, of the end of the last run.
        runs: number of runs that it rests on.
        run_seconds: sum of the runs' durations, also of those that other recipes share.
        wall_seconds: in which at least one of them was under way.
    """

    command: str
    commits: list[str]
    machines: list[dict[str, Any]]
    date: str
    runs: int
    run_seconds: float
    wall_seconds: float


def made(command: str, folders: Sequence[Path], device: str) -> Made:
    """Of the runs in these folders; a recipe without runs is made here and now."""
    lines = sorted((line for folder in folders for line in attempts(folder)), key=lambda line: float(line["began"]))
    spans = [(float(line["began"]), float(line["ended"])) for line in lines]
    commits = [line["commit"] or "unknown" for line in lines] or [machine.commit() or "unknown"]
    machines = [line["machine"] for line in lines if line["machine"]] or [machine.describe(device)]
    last = datetime.fromtimestamp(max(end for _, end in spans), UTC) if spans else datetime.now(UTC)
    return Made(
        command=command,
        commits=list(dict.fromkeys(commits)),
        machines=[one for place, one in enumerate(machines) if one not in machines[:place]],
        date=last.isoformat(timespec="seconds"),
        runs=len(folders),
        run_seconds=round(sum(end - began for began, end in spans), 1),
        wall_seconds=round(covered(spans), 1),
    )


def attempts(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's made.jsonl; where it has none, what the times of its files tell."""
    try:
        return [json.loads(line) for line in (folder / MADE).read_text().splitlines()]
    except (OSError, ValueError):  # of a version that wrote none, or copied without it
        began, ended = ((folder / name).stat().st_mtime for name in (CONFIG, DONE))
        return [{"began": began, "ended": ended, "commit": None, "machine": None}]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
