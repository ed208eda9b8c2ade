"""`layerpace train` under torchrun, as a user starts it: processes that are killed or stopped, and what comes of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from layerpace import cli

if not (torch.distributed.is_available() and Path("/proc/self/environ").exists()):
    pytest.skip("looks for processes in /proc", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
TASK = f"{ROOT / 'docs/examples/own_task.py'}:spirals"
TRAIN = ("train", "--task", TASK, "--method", "lamb", "--threads", "1", "--eval-every", "10", "--steps", "400")
PATIENCE = 120  # seconds; torch takes long to import where others compute


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", **more}


def ranks(torchrun: subprocess.Popen[str]) -> dict[int, int]:
    """{rank: process id} of the processes that torchrun has now."""
    found = {}
    with contextlib.suppress(OSError):
        for pid in map(int, Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()):
            with contextlib.suppress(OSError):
                rank = re.search(rb"(?:^|\0)RANK=(\d+)", Path(f"/proc/{pid}/environ").read_bytes())
                if rank:
                    found[int(rank[1])] = pid
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def torchrun(folder: Path, *arguments: str, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Two processes of layerpace; whatever happens, none of them is left."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    process = subprocess.Popen(
        [*launcher, *place, "-m", "layerpace", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for pid in (*ranks(process).values(), process.pid) if process.poll() is None else ():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{path} has no {count} lines; {process.returncode}: {process.communicate()[0]}")
        time.sleep(0.005)


def curve(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / "curve.jsonl").read_text().splitlines()]


def untimed(path: Path) -> bytes:
    return re.sub(rb'"(time|started)": [\d.]+', b"", path.read_bytes())


@pytest.mark.slow
def test_sigkill_of_a_rank_loses_and_repeats_nothing(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = (*TRAIN, "--checkpoint-seconds", "0", "--out")
    with (
        torchrun(tmp_path, *options, "killed", restarts=3) as process,
        torchrun(tmp_path, *options, "whole") as undisturbed,
    ):
        wait_for_lines(killed / "curve.jsonl", 8, process)
        first = ranks(process)
        os.kill(first[1], signal.SIGKILL)
        assert not (killed / "DONE").exists(), "it ended before it could be killed"
        before = curve(killed)
        wait_for_lines(killed / "curve.jsonl", len(before) + 3, process)
        second = ranks(process)
        output, _ = process.communicate(timeout=PATIENCE)
        other, _ = undisturbed.communicate(timeout=PATIENCE)
    assert (process.returncode, undisturbed.returncode) == (0, 0), output + other
    assert first.keys() == second.keys() == {0, 1} and not set(first.values()) & set(second.values())
    assert not any(alive(pid) for pid in (*first.values(), *second.values()))
    assert "lost contact with another one" in output and "Traceback" not in output
    assert curve(killed) == list(range(0, 401, 10))
    for name in ("curve.jsonl", "records.jsonl"):
        assert untimed(killed / name) == untimed(whole / name)
    results = [json.loads((path / "DONE").read_text()) for path in (killed, whole)]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    again = [int(step) for step in re.findall(r"^step (\d+)/", output, re.M)]
    last, restart = next((a, b) for a, b in itertools.pairwise(again) if b <= a)
    assert 0 < restart <= last, "it did not go on from the last checkpoint"


def test_sigterm_to_torchrun_stops_all_ranks_and_one_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stopped"
    arguments = [*TRAIN, "--checkpoint-seconds", "1000", "--out", str(out)]
    with torchrun(tmp_path, *arguments) as process:
        wait_for_lines(out / "curve.jsonl", 8, process)
        pids = ranks(process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert len(pids) == 2 and not any(alive(pid) for pid in pids.values())
    said = [line for line in output.splitlines() if line.startswith("layerpace:")]
    assert len(said) == 1 and said[0].startswith("layerpace: stopped; to go on: torchrun ... layerpace train")
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 400
    monkeypatch.chdir(tmp_path)
    cli.dispatch([*arguments, "--resume"])
    assert "all files" in capsys.readouterr().out
    cli.dispatch([*arguments[:-1], "alone"])
    assert curve(out) == list(range(0, 401, 10))
    stopped, alone = (torch.load(path / "weights.pt", weights_only=True) for path in (out, Path("alone")))
    for name, value in alone.items():
        assert (stopped[name] - value).abs().max() <= 1e-3 * value.abs().max(), name


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--out", "taken"], 2, "holds a training already"),
        pytest.param(["--steps", "many"], 2, "--steps", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_said_once(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    """Without torchrun, which ends the others with the first one."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text('{"fingerprint": "other"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "layerpace", *TRAIN, *arguments],
            cwd=tmp_path,
            env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [status, status], outputs
    assert message in outputs[0] and outputs[0].count("\n") == 1
    assert outputs[1] == ""


def test_a_finished_process_does_not_fall_over_its_own_end(tmp_path: Path) -> None:
    """As gloo's threads make it fall now and then: one frees a tensor while Python is taken down, and that aborts."""
    (tmp_path / "falls.py").write_text(
        "import atexit, os, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'docs/examples')!r})\n"
        "from own_task import spirals\n"
        "atexit.register(os.abort)\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    options = ["--task", "falls.py:spirals", "--steps", "2", "--threads", "1", "--out", "run"]
    command = [sys.executable, "-m", "layerpace", "train", *options]
    ended = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert "all files: run" in ended.stdout
    assert (tmp_path / "run" / "DONE").exists()
