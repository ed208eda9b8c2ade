"""Run folders that are damaged or made to break a reader: `report`, `watch` and `monitors.load` say what is wrong in a
line, in bounded time, and let nothing reach the terminal that steers it.

    pytest tests/monitors/test_damaged.py -s                 # prints where the table of all folders lies
    DAMAGED=5000:99 pytest tests/monitors/test_damaged.py    # so many, of other seeds
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.hostile import Outcome, ended

from layerpace import cli
from layerpace.cli import dispatch
from layerpace.commands import EXIT_USAGE, complain
from layerpace.engine.common.files import FileError
from layerpace.monitors.diagnose import diagnose
from layerpace.monitors.folder import load

from .damaged import make, many_lines, small_run

COUNT, SEED = (int(x) for x in os.environ.get("DAMAGED", "300:0").split(":"))
SECONDS = 5.0  # the most that one reader may take for one small folder


def opened(path: Path) -> None:
    """What a program of the user's does with a folder: it is refused with a `FileError`, and nothing else."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            runs = load(path)
        except (FileError, FileNotFoundError) as error:
            complain(str(error), EXIT_USAGE)
        for warning in said:
            print(f"warned: {warning.message}")
        for run in runs:
            for finding in diagnose(run):
                print(finding)
            print(f"{len(run.history)} records of {len(run.layers)} layers")


def readers(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Outcome]:
    """How each reader ends."""
    out = path.parent / "report.html"
    calls: dict[str, Callable[[], None]] = {
        "report": lambda: dispatch(["report", str(path), "--out", str(out)]),
        "watch": lambda: dispatch(["watch", str(path), "--once"]),
        "load": lambda: opened(path),
    }
    if COUNT > 300:
        calls["results"] = lambda: dispatch(["results", str(path)])
    return {name: ended(call, capsys) for name, call in calls.items()}


def test_no_damaged_folder_breaks_a_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COUNT folders, each changed at random: no traceback, no hang, no raw control character."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(cli, "make_app", cache(cli.make_app))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    template = small_run(tmp_path / "template")
    rows, wrong = [], []
    for seed in range(SEED, SEED + COUNT):
        path = tmp_path / "damaged"
        what = make(template, path, seed)
        for name, outcome in readers(path, capsys).items():
            faults = outcome.faults(SECONDS, err_lines=1 if name in ("watch", "load") else None)
            verdict = "; ".join(faults) or {0: "shown", 2: "refused"}.get(outcome.status or 0, f"{outcome.status}")
            rows.append(f"{seed:6} {name:7} {verdict:12} {what}\n{'':16}{outcome.message[:300]}")
            wrong += [f"seed {seed}, {name}: {what}\n    {fault}" for fault in faults]
        shutil.rmtree(path)
    torch.set_num_threads(threads)
    table = tmp_path / "damaged.txt"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8", errors="replace")
    with capsys.disabled():
        print(f" {COUNT} folders: {table}")
    assert not wrong, "\n".join(wrong[:20])


def test_a_million_lines_are_thinned_in_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading is the same for all: one reader gets the million, the others what takes as much of their own work."""
    out = tmp_path / "report.html"
    for name, lines, call in (
        ("watch", 1_000_000, lambda run: dispatch(["watch", str(run), "--once"])),
        ("report", 120_000, lambda run: dispatch(["report", str(run), "--out", str(out)])),
        ("load", 120_000, opened),
    ):
        run = tmp_path / name
        many_lines(run, lines)
        outcome = ended(lambda run=run, call=call: call(run), capsys)  # type: ignore[misc]
        assert not outcome.faults(60.0), (name, outcome)
        assert outcome.status == 0
        assert f"records.jsonl has {lines + 1} lines: of its records every" in outcome.out + outcome.err
    assert out.stat().st_size < 1e6
