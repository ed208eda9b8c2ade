"""What a monitor keeps in memory and on disk, and going on with a training."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods import save_and_open
from tests.monitors.training import adam, loss_of, network, train, weights
from torch import nn

import layerpace as lp
from layerpace.monitors import folder
from layerpace.monitors.recorder import PENDING


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are written five seconds after the last time, as where that takes long."""
    monkeypatch.setattr("layerpace.monitors.monitor.FLUSH_FREE", -1.0)
    monkeypatch.setattr("layerpace.monitors.monitor.FLUSH_SHARE", 1e-9)


def test_what_nobody_closed_is_written_at_the_end(tmp_path: Path) -> None:
    """Of the monitor's life, and of the process's."""
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "one")
    train(model, optimizer, 3)
    del monitor, optimizer
    gc.collect()
    assert folder.load(tmp_path / "one")[0].history.steps == [1, 2, 3]
    code = (
        "import torch, layerpace as lp; m = torch.nn.Linear(2, 2); o = torch.optim.SGD(m.parameters(), lr=0.1); "
        f"monitor = lp.Monitor(m, o, every=1, out={str(tmp_path / 'two')!r}); "
        "m(torch.ones(1, 2)).sum().backward(); o.step(); o.step()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    [run] = folder.load(tmp_path / "two")
    assert run.history.steps == [1, 2] and not run.finished


def test_a_sink_that_fails_does_not_stop_the_training(tmp_path: Path) -> None:
    class Broken:
        def log(self, values: dict[str, float], step: int) -> None:
            raise ConnectionError("gone")

    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run", sinks=[Broken()])
    with pytest.warns(UserWarning, match="the sink Broken is left out from now on: ConnectionError: gone"):
        train(model, optimizer, PENDING)
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match="cannot be written now"):
        train(model, optimizer, 200 + PENDING, first=PENDING)
    assert len(monitor.history) >= 200
    monitor._watchers[0].detach()


def test_scalars_are_bounded() -> None:
    model = network()
    monitor = lp.Monitor(model, adam(model), out=None, max_records=10)
    for step in range(100):
        monitor.log({"loss": float(step)}, step)
    steps = monitor.run.scalars["loss"].steps
    assert 5 <= len(steps) <= 10 and steps[0] == 0 and steps[-1] > 80


def test_going_on_knows_what_has_been_thinned_out(tmp_path: Path) -> None:
    def part(steps: int, first: int) -> lp.Monitor:
        model = network()
        optimizer = adam(model)
        monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run", max_records=8, initial=None, resume=True)
        train(model, optimizer, steps, first)
        monitor.close()
        return monitor

    part(40, 0)
    for steps, first in ((24, 40), (16, 64)):
        monitor = part(steps, first)
        assert monitor.step == steps + first
        on_disk = folder.load(tmp_path / "run")[0].history.steps
        assert monitor.history.steps == on_disk
        gaps = {b - a for a, b in itertools.pairwise(on_disk)}
        assert len(gaps) == 1  # old records no sparser than new ones


def test_records_are_bounded_and_span_the_training(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run", max_records=10)
    train(model, optimizer, 100)
    monitor.close()
    steps = monitor.history.steps
    assert 5 <= len(steps) <= 20 and steps[0] == 1 and steps[-1] > 85
    on_disk = folder.load(tmp_path / "run")[0].history
    assert on_disk.steps == steps
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert len(lines) < 25  # records with and without the rotation curve, and what says so


def test_optimizers_that_take_turns_keep_their_records(tmp_path: Path) -> None:
    model = network()
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    monitor = lp.Monitor(model, both, every=1, out=tmp_path / "run", max_records=8, initial=None)
    for step in range(50):
        model.zero_grad()
        loss_of(model, step).backward()
        for optimizer in both:
            optimizer.step()
    monitor.close()
    for history in (monitor.history, folder.load(tmp_path / "run")[0].history):
        for layer in ("0.weight", "2.weight"):
            assert history.series("update_norm", layer)[0] == [1, 9, 17, 25, 33, 41, 49]


def test_the_folder_has_what_the_monitor_has(tmp_path: Path) -> None:
    model = network()
    optimizer = lp.LAMBC(model.named_parameters(), lr=0.01)
    with lp.Monitor(model, optimizer, every=3, out=tmp_path / "run", settings={"seed": 1}) as monitor:
        for step in range(20):
            train(model, optimizer, 1, first=step)
            monitor.log({"loss": 1 / (step + 1)})
    [run] = folder.load(tmp_path / "run")
    assert run.finished and run.settings["seed"] == 1
    assert run.settings["optimizers"][0]["class"] == "LAMBC"
    assert run.history.steps == monitor.history.steps
    for name in monitor.history.quantities:
        torch.testing.assert_close(run.history[name], monitor.history[name], rtol=1e-6, atol=0, equal_nan=True)
    assert run.scalars["loss"].steps == list(range(1, 21))
    assert run.history.rotation_rate(1, 20).keys() <= set(run.history.layers)


def test_going_on_from_a_checkpoint_repeats_and_loses_nothing(tmp_path: Path) -> None:
    def start(path: Path, resume: bool = False) -> tuple[nn.Module, torch.optim.Optimizer, lp.Monitor]:
        model = network()
        optimizer = lp.LAMB(model.named_parameters(), lr=0.01)
        return model, optimizer, lp.Monitor(model, optimizer, every=2, rotation_every=4, out=path, resume=resume)

    model, optimizer, monitor = start(tmp_path / "whole")
    train(model, optimizer, 30)
    monitor.close()
    whole = folder.load(tmp_path / "whole")[0].history

    model, optimizer, monitor = start(tmp_path / "parts")
    train(model, optimizer, 13)
    saved = save_and_open({"m": model.state_dict(), "o": optimizer.state_dict(), "l": monitor.state_dict()})
    train(model, optimizer, 6, first=13)  # and the process is killed
    monitor.flush()
    model, optimizer, monitor = start(tmp_path / "parts", resume=True)
    model.load_state_dict(saved["m"])
    optimizer.load_state_dict(saved["o"])
    monitor.load_state_dict(saved["l"])
    assert monitor.step == 13
    train(model, optimizer, 17, first=13)
    monitor.close()
    parts = folder.load(tmp_path / "parts")[0].history
    assert parts.steps == whole.steps == [1, *range(2, 31, 2)]
    for history in (parts, monitor.history):
        for name in whole.quantities:
            torch.testing.assert_close(history[name], whole[name], rtol=1e-6, atol=1e-12, equal_nan=True)


def test_going_on_with_optimizers_that_count_for_themselves(tmp_path: Path) -> None:
    def start(resume: bool = False) -> tuple[nn.Module, list[torch.optim.Optimizer], lp.Monitor]:
        model = network()
        both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
        return model, both, lp.Monitor(model, both, every=1, out=tmp_path / "run", resume=resume)

    def run(model: nn.Module, both: list[torch.optim.Optimizer], steps: range) -> None:
        for step in steps:
            model.zero_grad()
            loss_of(model, step).backward()
            both[0].step()
            if step % 2:
                both[1].step()

    model, both, monitor = start()
    run(model, both, range(8))
    saved = monitor.state_dict()
    run(model, both, range(8, 12))
    monitor.flush()
    model, both, monitor = start(resume=True)
    monitor.load_state_dict(saved)
    run(model, both, range(8, 14))
    monitor.close()
    for history in (monitor.history, folder.load(tmp_path / "run")[0].history):
        assert sorted(history.series("update_norm", "0.weight")[0]) == list(range(1, 15))
        assert sorted(history.series("update_norm", "2.weight")[0]) == list(range(1, 8))


def test_a_step_that_calls_that_of_its_base_class_counts_once() -> None:
    class Scaled(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mul_(0.5)
            return super().step(closure)

    model = network()
    torch.optim.SGD(model.parameters(), lr=0.1)  # from now on torch hooks both steps
    optimizer = Scaled(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    for step in range(3):
        before = weights(model)
        train(model, optimizer, 1, first=step)
        moved = (before["0.weight"] - model[0].weight.detach()).double().norm().item()
        assert monitor.latest()["0.weight"]["update_norm"] == pytest.approx(moved, rel=1e-6)
    assert monitor.history.steps == [1, 2, 3]


def test_going_on_with_a_folder_alone(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=5, rotation_every=5, out=tmp_path / "run")
    train(model, optimizer, 10)
    monitor.log({"loss": 2.0})
    monitor.close()
    with pytest.warns(UserWarning, match=r"so this one goes to .*run-2; resume=True would go on"):
        assert lp.Monitor(model, optimizer, out=tmp_path / "run").path == tmp_path / "run-2"
    again = lp.Monitor(model, optimizer, every=5, rotation_every=5, out=tmp_path / "run", resume=True)
    train(model, optimizer, 10, first=10)
    again.close()
    [run] = folder.load(tmp_path / "run")
    assert run.history.steps == again.history.steps == [1, 5, 10, 15, 20]
    curve = run.history.series("cosine_distance", "0.weight")[1]
    assert curve == sorted(curve)  # measured from where the first part began
    assert run.scalars["loss"].steps == [10] == again.run.scalars["loss"].steps


def test_the_automatic_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer)
    assert monitor.path is None and not list(tmp_path.iterdir())
    train(model, optimizer, 10)
    monitor.close()
    assert monitor.path is not None and monitor.path.parent == Path("runs")
    assert len(folder.load(monitor.path)[0].history) == 2


def test_sinks_get_every_record() -> None:
    class Notes:
        def __init__(self) -> None:
            self.taken: list[tuple[int, dict[str, float]]] = []

        def log(self, values: dict[str, float], step: int) -> None:
            self.taken.append((step, dict(values)))

    notes = Notes()
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=5, out=None, sinks=[notes])
    train(model, optimizer, 10)
    monitor.log({"loss": torch.tensor(0.5, requires_grad=True)})
    monitor.close()
    records = [(step, values) for step, values in notes.taken if "loss" not in values]
    assert [step for step, _ in records] == [1, 5, 10]
    assert (10, {"loss": 0.5}) in notes.taken
    assert records[-1][1]["grad_norm/0.weight"] == monitor.latest()["0.weight"]["grad_norm"]


def test_an_optimizer_that_is_watched_can_be_copied_and_pickled() -> None:
    for make in (adam, lambda m: lp.LAMB(m.parameters()), lambda m: lp.wrap(adam(m), "rotation")):
        model = network()
        optimizer = make(model)
        monitor = lp.Monitor(model, optimizer, every=1, out=None)
        train(model, optimizer, 2)
        copy.deepcopy((model, optimizer))
        other_model, other = pickle.loads(pickle.dumps((model, optimizer)))
        train(other_model, other, 1, first=2)
        assert monitor.step == 2


def test_closing_lets_go() -> None:
    model = network()
    optimizer = lp.LAMB(model.parameters())
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    train(model, optimizer, 1)
    monitor.close()
    monitor.close()
    train(model, optimizer, 2, first=1)
    assert monitor.history.steps == [1] and not optimizer._cache.readers
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None


def test_a_folder_has_one_writer(tmp_path: Path, late: None) -> None:
    """As when a cell of a notebook is run again: what the first monitor still had does not come back later."""
    model = network()
    first = lp.Monitor(model, adam(model), every=1, out=tmp_path / "run")
    train(model, first._watchers[0].optimizer, 3)
    first.flush()
    train(model, first._watchers[0].optimizer, 2, first=3)
    optimizer = adam(model)
    second = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run", resume=True)
    train(model, optimizer, 2, first=3)
    second.close()
    del first
    gc.collect()
    assert folder.load(tmp_path / "run")[0].history.steps == [1, 2, 3, 4, 5]


def test_a_monitor_that_is_abandoned_writes_nothing_more(tmp_path: Path, late: None) -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    train(model, optimizer, 2)
    monitor.flush()
    train(model, optimizer, 2, first=2)
    monitor.abandon()
    train(model, optimizer, 2, first=4)
    del monitor
    gc.collect()
    [run] = folder.load(tmp_path / "run")
    assert run.history.steps == [1, 2] and not run.finished
