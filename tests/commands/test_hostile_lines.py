"""Hostile command lines: one line and an exit status for each, no traceback, no hang, nothing raw on the terminal."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from tests.commands.hostile_lines import FILES, lines
from tests.hostile import Outcome, ended

from layerpace import cli

SEED = int(os.environ.get("LAYERPACE_HOSTILE_SEED", "0"))
DRAWN = int(os.environ.get("LAYERPACE_HOSTILE_DRAWN", "60"))
SLOWEST = 30.0  # seconds of a line, on a machine that does much else: a hang


def places() -> None:
    """The folders and files that the lines name."""
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("bytes.toml").write_bytes(b"\xff\xfe\x00")
    Path("loop").symlink_to("loop")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
    Path("run").mkdir()
    cli.dispatch(["train", "--task", "half.py:task", "--out", "run", "--overwrite"])


def shown(line: list[str]) -> str:
    text = " ".join(
        ascii(word)[1:-1] if len(word) < 60 else f"{ascii(word[:40])[1:-1]}...({len(word)})" for word in line
    )
    return text.replace("|", "\\|")


def table(found: list[tuple[list[str], Outcome]]) -> str:
    """What each line got, in Markdown."""
    head = "| command line | status | what it said |\n|---|---|---|\n"
    rows = (f"| `{shown(line)}` | {end.status} | {end.message[:160].replace('|', '/')} |\n" for line, end in found)
    return head + "".join(rows)


def test_hostile_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERPACE_DATA", str(tmp_path))  # no data set is there, and none is fetched
    monkeypatch.setattr("layerpace.lab.downloads.fetch_one", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    monkeypatch.setattr("layerpace.lab.plots.draw", lambda *_: [])
    monkeypatch.setattr("webbrowser.open", lambda *_: True)
    places()
    found = [(line, ended(lambda line=line: cli.run(line), capsys)) for line in lines(SEED, DRAWN)]  # type: ignore[misc]
    (tmp_path / "hostile.md").write_text(table(found))  # the list of what each got
    if place := os.environ.get("LAYERPACE_HOSTILE_TABLE"):
        Path(place).write_text(table(found))
    wrong = [(shown(line), faults, end.err[-300:]) for line, end in found
             if (faults := end.faults(SLOWEST, err_lines=None))]  # fmt: skip
    assert not wrong, json.dumps(wrong[:20], indent=1)
    errors = [(line, end) for line, end in found if end.status]
    unlike = [(shown(line), end.err) for line, end in errors
              if len(end.err) > 5000 or sum(part.startswith("layerpace: ") for part in end.err.splitlines()) != 1
              ]  # fmt: skip
    assert not unlike, json.dumps(unlike[:20], indent=1)
    number = Counter(end.status for _, end in found)
    assert len(found) >= 150 and number[2] > len(found) / 2 and number[1] + number[2] + number[3] == len(errors), number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 1.5", "--steps: '1.5' is not a whole number"),
        (f"--steps {'9' * 30}", "must be at most 100000000"),
        (f"--seed {'9' * 30}", "must be at most 9223372036854775807"),
        ("--threads 100000", "--threads 100000: must be at most 1024"),
        ("--device meta", "--device meta: choose from cpu, cuda"),
        ("--device mps", "--device mps: choose from cpu, cuda"),
        ("--method adam:backend=nope", "backend must be one of"),
        (f"--method adam:wd={'9' * 400}", "--method adam:wd=999"),
        (f"--method adam:eps={'-' * 6000}1", "eps"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("half.py").write_text(FILES["half.py"])
    end = ended(lambda: cli.run(["train", "--task", "half.py:task", "--out", "out", *words.split()]), capsys)
    assert end.status == 2 and message in end.err and not end.faults(SLOWEST) and not Path("out").exists(), end
