"""The command as a user runs it: a process, its output, its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layerpace import cli
from layerpace.engine.common.extras import how_to_install

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/own_task.py"
QUICK = ("--task", f"{EXAMPLE}:spirals", "--eval-every", "10", "--threads", "1")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]), **more}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "layerpace", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same within this process, for what ends before any training."""
    try:
        cli.dispatch(arguments)
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            out, err = process.communicate(timeout=10)
            raise AssertionError(f"ended with {process.returncode} before it was to be stopped: {out} {err}")
        time.sleep(0.005)


def written(out: Path) -> dict[str, bytes]:
    """All records, and the hash of the final weights, of every run."""
    found: dict[str, bytes] = {}
    for folder in sorted((out / "runs").iterdir()):
        for name in ("curve.jsonl", "records.jsonl", "config.json", "run.json", "initial.pt"):
            # but for the moments at which records were made and the run began
            found[f"{folder.name}/{name}"] = re.sub(rb'"(time|started)": [\d.]+', b"", (folder / name).read_bytes())
        found[f"{folder.name}/weights"] = json.loads((folder / "DONE").read_text())["weights_sha256"].encode()
    return found


def line_count(out: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("runs/*/curve.jsonl"))


TRAIN = (*QUICK, "--methods", "percent-delta", "adam", "--seeds", "1", "--steps", "300", "--checkpoint-seconds", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The records of a comparison that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    status, _, err = run(folder, "compare", *TRAIN, "--out", "whole")
    assert status == 0, err
    return written(folder / "whole")


@pytest.mark.parametrize("lines", [pytest.param(12, marks=pytest.mark.slow), 40])
def test_kill_9_and_resume_end_with_the_same_bits(tmp_path: Path, whole: dict[str, bytes], lines: int) -> None:
    process = start(tmp_path, "compare", *TRAIN, "--out", "killed")
    wait_for(lambda: line_count(tmp_path / "killed") >= lines, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    finished = len(list((tmp_path / "killed").glob("runs/*/DONE")))
    assert finished < 2
    status, _, err = run(tmp_path, "compare", *TRAIN, "--out", "killed", "--resume")
    assert status == 0, err
    assert err.count("finished before") == finished
    assert written(tmp_path / "killed") == whole


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_a_run_to_resume_and_says_how(
    tmp_path: Path, whole: dict[str, bytes], signum: signal.Signals, status: int
) -> None:
    arguments = [*TRAIN[:-1], "1000"]  # no checkpoints but the one when stopped
    process = start(tmp_path, "compare", *arguments, "--out", "my run")
    wait_for(lambda: line_count(tmp_path / "my run") >= 12, process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("layerpace: stopped; to go on: layerpace compare ")
    assert last.endswith("--out 'my run' --resume")
    assert list((tmp_path / "my run").glob("runs/*/checkpoint.pt"))
    if signum == signal.SIGINT:  # what both left is the same
        assert run(tmp_path, "compare", *arguments, "--out", "my run", "--resume")[0] == 0
        assert written(tmp_path / "my run") == whole


def test_json_is_all_of_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chatty = tmp_path / "chatty.py"
    chatty.write_text(
        EXAMPLE.read_text().replace("def spirals() -> Task:", "def spirals() -> Task:\n    print('made')")
    )
    task = ("--task", f"{chatty}:spirals", "--threads", "1")
    status, out, err = here(capsys, "compare", *task, "--steps", "20", "--seeds", "1", "--methods", "layca", "--json")
    assert status == 0
    results = json.loads(out)
    assert results["methods"][0]["label"] == "Layca"
    assert results["config"]["steps"] == 20
    assert (tmp_path / results["out"] / "results.json").read_text() == out.rstrip("\n")
    assert "made\n" in err
    assert "[1/1] Layca" in err


def test_digits_train_and_a_table_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = here(capsys, "compare", "--steps", "12", "--seeds", "1", "--methods", "sgd", "lamb:clip=1")
    assert status == 0, err
    assert "digits: 12 steps of batch 64, 1 seed" in out
    assert "LAMB (clip=1)" in out
    plots = [line.removeprefix("plot: ") for line in out.splitlines() if line.startswith("plot: ")]
    assert len(plots) == 3
    assert all((tmp_path / plot).exists() for plot in plots)


def test_a_comparison_can_be_watched_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (*QUICK, "--steps", "20", "--methods", "lamb", "adam", "--seeds", "1", "--out", "here")
    assert here(capsys, "compare", *arguments)[0] == 0
    status, out, err = here(capsys, "watch", "here", "--once")
    assert status == 0, err
    assert "test_accuracy" in out
    assert "step 20" in out
    status, out, err = here(capsys, "report", "here")
    assert status == 0, err
    page = (tmp_path / "here" / "report.html").read_text()
    for expected in ("2 methods compared", "LAMB", "Adam", "test_loss"):
        assert expected in page


BAD_USE = [
    (("compar",), "Did you mean"),
    (("compare", "--stepz", "3"), "Did you mean --steps?"),
    (("compare", "--data", "mnits"), 'Did you mean "mnist"?'),
    (("compare", "--steps", "many"), "--steps"),
    (("compare", "--steps", "0"), "--steps 0: must be at least 1"),
    (("compare", "--resume", "--overwrite"), "choose one"),
    (("compare", "--task", "a.py:b", "--model", "mlp"), "leave out --data"),
    (("compare", "--checkpoint-seconds", "nan"), "--checkpoint-seconds nan"),
    (("compare", "--seeds", "-1"), "--seeds -1"),
    (("compare", "--lr-grid", "fast"), "--lr-grid"),
    (("compare", "--lr-grid", "-0.1"), "lr must be"),
    (("compare", "--dtype", "fp8"), "fp32"),
    (("compare", "--methods", "adm"), "did you mean adam?"),
    (("compare", "--methods", "lamb:bets=1"), "did you mean betas?"),
    (("compare", "--methods"), "name at least one"),
    (("compare", "--model", "resnet"), "choose from digits-cnn"),
    (("compare", "--batch-size", "100000"), "--batch-size 100000"),
    (("compare", "--target", "90"), "--target 90"),
    (("compare", "--device", "abacus"), "--device abacus"),
    (("compare", "extra"), "extra"),
    (("compare", "--task", "nonsense"), "package.module:function"),
    (("compare", "--task", "no_such_module:task"), "No module named 'no_such_module'"),
    (("compare", "--task", "nowhere.py:task"), "there is no file nowhere.py"),
    (("compare", "--task", f"{EXAMPLE}:missing"), "no function 'missing'"),
    (("compare", "--task", f"{EXAMPLE}:network"), "not layerpace.lab.Task"),
    (("compare", "--task", f"{EXAMPLE}:spirals", "--data", "mnist"), "leave out --data, --data-dir and --model"),
    (("compare", "--data", "mnist", "--data-dir", "nowhere"), "nowhere does not exist"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), BAD_USE, ids=[" ".join(a).replace(str(ROOT), "") for a, _ in BAD_USE]
)
def test_bad_use_is_one_line_and_status_2(
    arguments: Sequence[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = here(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("layerpace: ")
    assert complaint in err
    assert list(tmp_path.iterdir()) == []


def test_bad_use_of_the_process_itself(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "compare", "--stepz", "3")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_folder_with_results_is_refused_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("compare", *QUICK, "--steps", "10", "--methods", "sgd", "--out", "here", "--seeds")
    assert here(capsys, *arguments, "1")[0] == 0
    status, _, err = here(capsys, *arguments, "1")
    assert status == 2
    assert "--resume" in err
    assert "--out" in err
    assert len(err.splitlines()) == 1
    status, _, err = here(capsys, *arguments, "2", "--resume")
    assert status == 2
    assert "seeds was 1, now 2" in err


def test_help_names_every_option_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = here(capsys, "compare", "--help")
    assert status == 0
    for option in (
        "--data",
        "--methods",
        "--lr-grid",
        "--batch-size",
        "--resume",
        "--json",
        "--task",
        "--dtype",
        "--target",
    ):
        assert option in out
    assert "layerpace compare --methods adam lamb:lr=0.01,clip=1" in out


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "NEEDED", ("torch", "cyclopts_that_is_not_there"))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert err == f"layerpace: the layerpace command needs cyclopts_that_is_not_there: {how_to_install('lab')}\n"


def test_importing_layerpace_imports_nothing_of_the_lab() -> None:
    heavy = ("numpy", "sklearn", "matplotlib", "pooch", "rich", "cyclopts", "layerpace.lab", "layerpace.cli")
    check = (
        "import torch, sys; before = set(sys.modules); import layerpace; "
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", check], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
