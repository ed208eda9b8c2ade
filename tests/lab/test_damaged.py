"""A run after a full disk, a kill at a bad moment, or damage: one line says what, which file, and what to do."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.hostile import NAUGHTY, Outcome, ended

from layerpace import cli
from layerpace.lab import formats, ratings
from layerpace.lab.errors import LabError
from layerpace.lab.formats import read_bytes
from layerpace.lab.records import RunFolder, write
from layerpace.lab.sweep.runner import Runner
from layerpace.lab.sweep.runs import Runs

from .test_single import TASK, StopAt

TRAIN = ["train", "--task", "half.py:task", "--method", "lamb", "--lr", "0.01", "--checkpoint-seconds", "0"]
FILES = ("checkpoint.pt", "config.json", "curve.jsonl", "initial.pt", "records.jsonl", "run.json")


@pytest.fixture(autouse=True)
def own_task(own_folder: None) -> None:
    Path("half.py").write_text(TASK)


def stopped(monkeypatch: pytest.MonkeyPatch, folder: str) -> Path:
    """A training that was stopped in its middle."""
    with monkeypatch.context() as patch:
        patch.setattr("layerpace.lab.stopping.StopSignals", lambda: StopAt(6))
        with pytest.raises(SystemExit):
            cli.dispatch([*TRAIN, "--out", folder])
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted([*FILES, ".lock", ".writer"])
    return Path(folder)


def resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> Outcome:
    return ended(lambda: cli.dispatch([*TRAIN, "--out", str(folder), "--resume"]), capsys)


def said(outcome: Outcome, *words: str) -> None:
    """An error of one line with these words, below what is said of the training's progress."""
    assert not outcome.faults(err_lines=None) and outcome.status in (1, 2), outcome
    assert all(word in outcome.message for word in words), outcome.message
    assert sum(line.startswith("layerpace: ") for line in outcome.err.splitlines()) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def altered(path: Path) -> None:
    """A checkpoint of another model."""
    state = torch.load(path, weights_only=True)
    state["model"] = {name: tensor[:1] for name, tensor in state["model"].items()}
    torch.save(state, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    path.write_bytes(b'{"a": [1]}\n')


@pytest.mark.parametrize("damage", [cut, empty, nonsense])
def test_each_file_of_a_run_that_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    whole = stopped(monkeypatch, "whole")
    assert resumed(Path(shutil.copytree(whole, "good")), capsys).status == 0
    for name in FILES:
        folder = Path(shutil.copytree(whole, f"bad-{name}"))
        damage(folder / name)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        outcome = resumed(folder, capsys)
        if name == "records.jsonl":  # what is whole of it is read
            assert not outcome.faults(err_lines=None), outcome
            continue
        said(outcome, name, "delete" if name != "config.json" else "use another --out")
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert {key: kept[key] for key in FILES} == {key: before[key] for key in FILES}
        if "checkpoint.pt" in outcome.message:  # what it says to do helps
            (folder / "checkpoint.pt").unlink()
            assert resumed(folder, capsys).status == 0


def test_checkpoints_of_other_runs_and_curves_that_lost_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stopped(monkeypatch, "whole")
    folder = Path(shutil.copytree(whole, "other"))
    altered(folder / "checkpoint.pt")
    said(resumed(folder, capsys), "checkpoint.pt is not this run's", "delete it, and the run starts again")
    for key in ("step", "read", "score", "model", "optimizer", "losses", "monitor", "clock", "cpu_generator"):
        state = torch.load(whole / "checkpoint.pt", weights_only=True)
        del state[key]
        torch.save(state, folder / "checkpoint.pt")
        said(resumed(folder, capsys), "checkpoint.pt is not this run's")
    folder = Path(shutil.copytree(whole, "short"))
    lines = (folder / "curve.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "curve.jsonl").write_bytes(b"".join(lines[:-1]))
    said(resumed(folder, capsys), "curve.jsonl has", "it was cut or lost; delete checkpoint.pt")
    (folder / "curve.jsonl").write_bytes(lines[0] + b"x" * len(lines[1]) + b"\n")
    said(resumed(folder, capsys), "curve.jsonl, line 2: not JSON")


def test_any_byte_of_any_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole, draw = stopped(monkeypatch, "whole"), random.Random(3)
    for _ in range(40):
        folder = Path(shutil.copytree(whole, "bad"))
        place = folder / draw.choice(FILES)
        content = bytearray(place.read_bytes())
        for _ in range(draw.choice((1, 1, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        place.write_bytes(content)
        outcome = resumed(folder, capsys)
        assert not outcome.faults(err_lines=None), (place.name, outcome)
        shutil.rmtree(folder)


def test_a_result_that_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("layerpace.lab.plots.draw", lambda *_: [])
    compare = ["compare", *TRAIN[1:3], "--methods", "lamb", "--seeds", "1", "--steps", "2", "--out", "all"]
    cli.dispatch(compare)
    cli.dispatch([*TRAIN, "--out", "one"])
    for done, again in ((next(Path("all/runs").iterdir()) / "DONE", [*compare, "--resume"]),
                        (Path("one/DONE"), [*TRAIN, "--out", "one", "--resume"])):  # fmt: skip
        good = json.loads(done.read_text())
        bad = [b"", b"{", b"[]", b'{"status": "done"}', b"[" * 10**5, b"\xff"]
        bad += [json.dumps({**good, **part}).encode() for part in (
            {"status": NAUGHTY}, {"test_score": "high"}, {"test_score": None}, {"step_ms": [1]}, {"layers": 3},
            {"unevenness": {}}, {"layers": [None]}, {"status": "diverged"}, {"steps_to_target": 10**400},
        )]  # fmt: skip
        for content in bad:
            done.write_bytes(content)
            said(ended(lambda again=again: cli.dispatch(again), capsys), "DONE", "delete it to make the run again")
        done.unlink()
        assert ended(lambda again=again: cli.dispatch(again), capsys).status == 0
    curve = next(Path("all/runs").iterdir()) / "curve.jsonl"
    curve.write_text('{"step": 0}\nno line\n')
    said(ended(lambda: cli.dispatch([*compare, "--resume"]), capsys), "curve.jsonl, line 2: not JSON", "delete DONE")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder = stopped(monkeypatch, "disk")
    before = (folder / "checkpoint.pt").read_bytes()
    for name in ("checkpoint.pt", "weights.pt", "DONE"):
        (folder / f"{name}.part").symlink_to("/dev/full")
        said(resumed(folder, capsys), name, "No space left on device")
        assert (folder / "checkpoint.pt").read_bytes() == before if name == "checkpoint.pt" else True
        assert not (folder / f"{name}.part").is_symlink()  # what was written aside takes no room
    assert resumed(folder, capsys).status == 0
    run = RunFolder(Path("large"), {})
    (run.path / "checkpoint.pt.part").symlink_to("/dev/full")  # larger than a buffer: torch's own error is another one
    with pytest.raises(LabError, match=r"checkpoint.pt cannot be written: No space left on device; .* --resume"):
        run.save({"model": torch.zeros(10**5)})
    Path("file.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: 'file'"):
        write(Path("file"), "text")


def test_a_checkpoint_left_beside_a_result_is_removed_at_the_next_look(capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch([*TRAIN, "--out", "one"])
    left = [Path("one/checkpoint.pt"), Path("one/checkpoint.pt.part"), Path("one/weights.pt.part")]
    for path in left:
        path.write_bytes(b"of a run that was killed")
    assert resumed(Path("one"), capsys).status == 0
    assert not any(path.exists() for path in left)
    Path("spec.toml").write_text('[base]\ntask = "half.py:task"\n')
    sweep = ["sweep", "spec.toml", "--out", "many", "--jobs", "1"]
    folder = Runs(Path("many"), Runner.of("layerpace.lab.single:run")).add({"task": "half.py:task"})[0].folder
    shutil.copytree("one", folder)
    (folder / "checkpoint.pt").touch()
    cli.dispatch([*sweep, "--dry-run"])
    assert (folder / "checkpoint.pt").exists()
    cli.dispatch(sweep)
    assert (folder / "DONE").exists() and not (folder / "checkpoint.pt").exists()


def test_data_that_would_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST", 1 << 20)
    bomb, large = tmp_path / "bomb.gz", tmp_path / "large"
    bomb.write_bytes(gzip.compress(bytes(5 << 20)))
    large.touch()
    os.truncate(large, 2 << 20)
    for path, word in ((bomb, "expands to"), (large, "has")):
        with pytest.raises(LabError, match=rf"{path.name}: {word} more than 1,048,576 bytes"):
            read_bytes(path)
    for line in (f"{10**20}\t1\t3\t0", f"1\t{10**20}\t3\t0", "2000000\t1\t3\t0", f"1\t1\t{10**20}\t0", "9" * 5000):
        (tmp_path / "u1.base").write_text(f"1\t1\t3\t0\n{line}\n")
        with pytest.raises(LabError, match=r"u1.base, line 2: ") as error:
            ratings.read_ratings(tmp_path / "u1.base")
        assert len(str(error.value)) < 400
    (tmp_path / "u1.base").write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match="not a text of ratings in ascii"):
        ratings.read_ratings(tmp_path / "u1.base")
