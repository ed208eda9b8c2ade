"""What is read of a monitor is what was recorded: at any time, from any thread, and from its folder."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.monitors.training import adam, network, train

import layerpace as lp
from layerpace.monitors import folder


def test_every_reader_of_a_history_sees_the_last_step() -> None:
    readers = {
        "steps": lambda h: h.steps,
        "times": lambda h: h.times,
        "len": len,
        "quantities": lambda h: h.quantities,
        "contains": lambda h: "grad_norm" in h or None,
        "item": lambda h: h["grad_norm"],
        "series": lambda h: h.series("grad_norm", "0.weight")[0],
        "rate": lambda h: h.rotation_rate(),
        "clipped": lambda h: h.clipped(),
        "copy": lambda h: h.copy().steps,
        "repr": repr,
    }
    for name, read in readers.items():
        model = network()
        optimizer = lp.LAMBC(model.parameters(), lr=0.1)
        history = lp.Monitor(model, optimizer, every=1, rotation_every=1, out=None).history
        train(model, optimizer, 3)
        found = read(history)
        assert found is not None and (len(found) if hasattr(found, "__len__") else found), name
        assert name != "repr" or found.startswith("History(3 records of 4 layers, steps 1 to 3: relative_update_l1")


def test_the_latest_values_after_a_checkpoint_are_those_of_its_step(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, rotation_every=3, out=tmp_path / "run")
    train(model, optimizer, 4)
    saved, expected = monitor.state_dict(), monitor.latest()
    train(model, optimizer, 3, first=4)
    monitor.load_state_dict(saved)
    again = lp.Monitor(model, optimizer, every=1, rotation_every=3, out=tmp_path / "run", resume=True)
    assert again.latest().keys() == expected.keys()  # what the folder holds, before a checkpoint is loaded
    again.load_state_dict(saved)
    for one in (monitor, again):
        for layer, values in one.latest().items():
            assert values == pytest.approx(expected[layer], rel=1e-6) and "cosine_distance" in values


def test_a_monitor_is_read_while_another_thread_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerpace.monitors.recorder.PENDING", 3)
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=None, max_records=16)
    failed: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                history = monitor.run.history
                assert len(history.steps) == len(history.times)
                if history.steps:
                    assert len(history["grad_norm"]) == len(history)
                monitor.latest(), monitor.diagnose(), repr(monitor), monitor.history.series("grad_norm", "0.weight")
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        train(model, optimizer, 60)
        monitor.log({"loss": 1.0})
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not failed and monitor.history.steps[-1] >= 57


def test_a_short_training_is_in_its_folder_at_once(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    train(model, optimizer, 5)
    assert folder.load(tmp_path / "run")[0].history.steps == [1, 2, 3, 4, 5]
    monitor.log({"loss": 1.0})
    assert folder.load(tmp_path / "run")[0].scalars["loss"].steps == [5]


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clock in which everything that is written takes a second, and a step none."""
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    clock, flush = [monitor._due_at], monitor._output.flush
    written: list[float] = []

    def slow(*arguments: object) -> None:
        if len(arguments) > 1:  # not the call within
            clock[0] += 1.0
            written.append(clock[0])
        flush(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("layerpace.monitors.monitor.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(monitor._output, "flush", slow)
    for step in range(40):
        train(model, optimizer, 1, first=step)
        clock[0] += 0.5
    assert len(written) == 2 + 3  # the first two, and then every five seconds
    assert len(folder.load(tmp_path / "run")[0].history) >= 30
    monkeypatch.undo()


def test_a_cell_of_a_notebook_ends_with_all_records_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Events:
        def __init__(self) -> None:
            self.callbacks: dict[str, list[object]] = {"post_run_cell": []}

        def register(self, name: str, function: object) -> None:
            self.callbacks[name].append(function)

    events = Events()
    shell = SimpleNamespace(events=events)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setattr("layerpace.monitors.monitor.FLUSH_FREE", -1.0)
    monkeypatch.setattr("layerpace.monitors.monitor.FLUSH_SHARE", 1e-9)
    model = network()
    optimizer = adam(model)
    for name in ("one", "two"):
        monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / name)
    train(model, optimizer, 4)
    assert len(folder.load(tmp_path / "two")[0].history) < 4
    (call,) = events.callbacks["post_run_cell"]
    call(object())  # type: ignore[operator]
    assert folder.load(tmp_path / "two")[0].history.steps == [1, 2, 3, 4]
    assert repr(monitor).startswith("<Monitor ") and "step 4, 4 records of 4 layers, every=1>" in repr(monitor)


def test_what_is_shown_of_a_run() -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    assert repr(monitor) == "<Monitor in memory, step 0, 0 records of 4 layers, every=1>"
    assert repr(monitor.history) == "History(no records yet, of 4 layers)"
    train(model, optimizer, 2)
    monitor.log({"loss\x1b[31m": 1.0})
    monitor.close()
    assert repr(monitor) == "<Monitor in memory, step 2, 2 records of 4 layers, every=1, closed>"
    assert repr(monitor.run) == ("<Run 'run': 2 records of 4 layers, steps 1 to 2, scalars 'loss\\x1b[31m', finished>")


def test_plots_findings_and_reports_are_made_of_a_monitor(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = network()
    optimizer = lp.LAMBC(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, rotation_every=1, out=None, second_moment=True)
    train(model, optimizer, 3)
    plots = lp.monitors.plots
    for draw in (plots.curves, plots.norms, plots.rotation_curves, plots.trust_ratios, plots.relative_updates):
        assert draw(monitor, *(["grad_norm"] if draw is plots.curves else [])).figure is not None
    assert plots.second_moments(monitor).figure is not None
    assert plots.overview(monitor) is not None
    assert lp.monitors.diagnose(monitor) == monitor.diagnose()
    assert "<html" in lp.monitors.write_report([monitor], tmp_path / "page.html").read_text()


def test_weights_that_are_not_there_yet_are_waited_for(tmp_path: Path) -> None:
    """On "meta", or without a shape: the first record has them, and the rotation curve begins with the first step."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for kind in ("meta", "lazy"):
            model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
            if kind == "meta":
                model.to("meta")
            else:
                model[0] = torch.nn.LazyLinear(8)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            monitor = lp.Monitor(model, optimizer, every=1, rotation_every=1, out=tmp_path / kind)
            if kind == "meta":
                model.to_empty(device="cpu")
                assert all(p is q for p, q in zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True))
                for parameter in model.parameters():
                    torch.nn.init.constant_(parameter, 0.1)
            else:
                model(torch.ones(1, 6))
            start = model[0].weight.detach().clone()
            train(model, optimizer, 2)
            monitor.close()
            [run] = folder.load(tmp_path / kind)
            assert run.settings["device"] == "cpu" and run.settings["parameters"] == 83
            assert [layer.name for layer in run.layers] == ["0.weight", "0.bias", "2.weight", "2.bias"]
            assert run.layers[0].shape == (8, 6) and all(layer.trained for layer in run.layers)
            assert torch.equal(torch.load(tmp_path / kind / "initial.pt", weights_only=True)["0.weight"], start)
            assert run.history.series("cosine_distance", "0.weight")[0] == [1, 2]
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
