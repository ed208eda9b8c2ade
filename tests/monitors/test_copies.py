"""Copies of a monitor, and of what else owns hooks, files or connections: they watch nothing and write nothing."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.monitors.training import adam, network, train
from torch import nn
from torch.optim.swa_utils import AveragedModel

import layerpace as lp
from layerpace.monitors import folder, sinks


def watched(path: Path | None, make: Any = adam) -> tuple[nn.Module, torch.optim.Optimizer, lp.Monitor]:
    """A model that holds its monitor, after two steps."""
    model = network()
    optimizer = make(model)
    model.monitor = lp.Monitor(model, optimizer, every=1, out=path, settings={"of the user's": object()})
    train(model, optimizer, 2)
    model.monitor.log({"loss": 1.0})
    return model, optimizer, model.monitor


def assert_detached(copied: Any, monitor: lp.Monitor) -> None:
    assert copied is not monitor and copied.path is None and "a copy" in repr(copied)
    assert copied.history.steps == [1, 2] and copied.step == 2
    assert copied.latest().keys() == monitor.latest().keys()
    assert copied.run.scalars["loss"].values == [1.0] and not copied.diagnose()
    copied.log({"loss": 2.0})
    copied.close()
    with pytest.raises(RuntimeError, match="which watches no training"):
        copied.load_state_dict({"counts": [1], "initial": {}})


@pytest.mark.parametrize("kind", ["torch", "ours", "wrapped"])
def test_a_model_that_holds_its_monitor_is_copied_and_pickled(kind: str, tmp_path: Path) -> None:
    makes: dict[str, Any] = {
        "ours": lambda m: lp.LAMB(m.parameters()),
        "wrapped": lambda m: lp.wrap(adam(m), "rotation"),
    }
    model, optimizer, monitor = watched(tmp_path / "run", makes.get(kind, adam))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), AveragedModel(model).module):
        assert_detached(other.monitor, monitor)
    assert_detached(copy.copy(monitor), monitor)
    other, other_optimizer = copy.deepcopy((model, optimizer))
    train(other, other_optimizer, 3, first=2)
    train(model, optimizer, 1, first=2)
    monitor.close()
    [run] = folder.load(tmp_path / "run")
    assert run.history.steps == monitor.history.steps == [1, 2, 3]
    assert other.monitor.history.steps == [1, 2] and run.scalars["loss"].values == [1.0]


def test_a_run_and_a_history_are_copied_with_their_records_alone() -> None:
    _, _, monitor = watched(None)
    for thing in (monitor.run, monitor.history):
        small = len(pickle.dumps(thing))
        assert small < 40_000  # rows are parts of larger tensors, which are not written down for each
        other = pickle.loads(pickle.dumps(thing))
        assert repr(other) == repr(thing)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_child_of_fork_leaves_folder_and_records_to_its_parent(tmp_path: Path) -> None:
    """What a worker of a DataLoader inherits: also a lock that another thread may have held."""
    model, optimizer, monitor = watched(tmp_path / "run")
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    monitor._lock.acquire()  # as if by a thread that the child does not have
    monitor.history._lock.acquire()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        torch.set_num_threads(1)  # as workers do: the threads of OpenMP do not survive a fork
        try:
            with pytest.warns(UserWarning, match="this process is a child of the one that has the monitor"):
                train(model, optimizer, 2, first=2)
            monitor.flush()
            monitor.close()
            good = monitor.path is None and monitor.history.steps == [1, 2] and "a copy" in repr(monitor)
            os._exit(0 if good else 1)
        except BaseException:
            os._exit(2)
    monitor._lock.release()
    monitor.history._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    train(model, optimizer, 1, first=2)
    monitor.close()
    assert folder.load(tmp_path / "run")[0].history.steps == [1, 2, 3]


def test_a_copy_of_a_sink_has_no_file(tmp_path: Path) -> None:
    sink = sinks.JSONL(tmp_path / "records.jsonl")
    sink.log({"a": 1.0}, 1)
    for other in (copy.deepcopy(sink), pickle.loads(pickle.dumps(sink))):
        with pytest.raises(RuntimeError, match="this is a copy of a JSONL"):
            other.log({"a": 2.0}, 2)
        sinks.flush(other)
        sinks.close(other)
    sink.close()
    assert (tmp_path / "records.jsonl").read_text().count("values") == 1


def test_a_copy_of_a_module_gives_no_feedback() -> None:
    pytest.importorskip("sklearn")
    model, _, monitor = watched(None)
    classes = torch.arange(16) % 2
    with monitor.feedback(classes):
        copy.deepcopy(model)(torch.randn(16, 6)).square().mean().backward()
    assert "silhouette" not in monitor.history
