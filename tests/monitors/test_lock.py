"""A folder of a run has one writer, whichever processes want it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.monitors.training import adam, network, train

import layerpace as lp
from layerpace.monitors import folder
from layerpace.monitors.folder import MonitorFolder
from layerpace.monitors.lock import LOCK, hold
from layerpace.monitors.run import LayerInfo

LAYERS = [LayerInfo("a", (2,))]


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of run/."""
    (tmp_path / "run").mkdir()
    code = (
        "import fcntl, os, sys; file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(file, fcntl.LOCK_EX); "
        "os.write(file, b'process 7 on there'); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(tmp_path / "run" / LOCK)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process  # type: ignore[misc]
    process.kill()
    process.communicate()


def test_two_processes_do_not_go_on_in_one_folder(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    pytest.importorskip("fcntl")
    model = network()
    optimizer = adam(model)
    path = tmp_path / "run"
    with pytest.raises(BlockingIOError, match=r"run is being written by another process \('process 7 on there'\)"):
        lp.Monitor(model, optimizer, every=1, out=path, resume=True)
    assert not optimizer._optimizer_step_pre_hooks and [file.name for file in path.iterdir()] == [LOCK]
    with pytest.warns(UserWarning, match="this one goes to"):
        assert lp.Monitor(model, optimizer, every=1, out=path).path == tmp_path / "run-2"
    other.kill()  # as by the system: what is left behind holds nothing
    other.wait()
    with lp.Monitor(model, optimizer, every=1, out=path, resume=True) as monitor:
        train(model, optimizer, 2)
        assert (path / LOCK).read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    assert monitor.path == path and folder.load(path)[0].history.steps == [1, 2]


def test_a_lock_is_given_back_by_its_last_user(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")

    def free() -> bool:
        file = os.open(tmp_path / "run" / LOCK, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    first = MonitorFolder(tmp_path / "run", {}, LAYERS)
    second = MonitorFolder(tmp_path / "run", {}, LAYERS, resume=True)
    first.let_go()
    assert not free()
    second.finish()
    assert free()
    with pytest.raises(ValueError, match="another model"):
        MonitorFolder(tmp_path / "run", {}, [LayerInfo("b", (2,))], resume=True)
    assert free()
    lost = MonitorFolder(tmp_path / "run", {}, LAYERS, resume=True)
    assert not free()
    del lost
    assert free()


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    hold(tmp_path).release()


def test_a_snippet_that_is_run_again_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    paths = []
    for again in range(3):
        model = network()
        optimizer = adam(model)
        if again:
            with pytest.warns(UserWarning, match="first has a run already"):
                monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "first")
        else:
            monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "first")
        train(model, optimizer, 2 + again)
        paths.append(monitor.path)
    assert paths == [tmp_path / "first", tmp_path / "first-2", tmp_path / "first-3"]
    assert [folder.load(path)[0].history.steps[-1] for path in paths] == [2, 3, 4]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        lp.Monitor(model, optimizer, out=tmp_path / "file")


def test_a_folder_by_date_that_another_process_makes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layerpace.monitors.output.time.strftime", lambda form: "now")
    MonitorFolder(Path("runs") / "now", {}, LAYERS)
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1)
    train(model, optimizer, 1)
    assert monitor.path == Path("runs") / "now-2"
