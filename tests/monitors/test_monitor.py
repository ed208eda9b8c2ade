"""The monitor as a guest in other people's training loops."""

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
from tests.methods import few, save_and_open
from tests.monitors.recomputed import assert_close, quantities
from torch import Tensor, nn

import layerpace as lp
from layerpace.monitors import folder
from layerpace.monitors.recorder import MOST_PENDING, PENDING
from layerpace.monitors.transfer import Transfer


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 6, generator=generator)
    return model(x).square().mean() + model(x)[:, 0].mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


# When records are made


def test_the_first_step_and_every_tenth_are_recorded() -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, out=None)
    train(model, optimizer, 35)
    monitor.flush()
    assert monitor.history.steps == [1, 10, 20, 30]
    assert monitor.step == 35


@few
def test_watching_changes_nothing(make: Any) -> None:
    ends = []
    for watched in (False, True):
        model = network()
        optimizer = make(model.named_parameters())
        if watched:
            lp.Monitor(model, optimizer, every=2, out=None, second_moment=True)
        train(model, optimizer, 7)
        ends.append(weights(model))
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name])


def test_accumulated_gradients_make_one_record() -> None:
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    for step in range(3):
        optimizer.zero_grad()
        for part in range(4):
            loss_of(model, 10 * step + part).backward()
        expected = model[0].weight.grad.norm().item()
        optimizer.step()
        assert monitor.latest()["0.weight"]["grad_norm"] == pytest.approx(expected, rel=1e-6)
    assert monitor.history.steps == [1, 2, 3]


@few
def test_steps_inside_a_closure(make: Any) -> None:
    """The closure runs a whole training step, and may change weights itself."""
    model = network()
    optimizer = make(model.named_parameters())
    monitor = lp.Monitor(model, optimizer, every=1, out=None, rotation_every=1)
    initial = weights(model)
    for step in range(3):
        seen: dict[str, Any] = {}

        def closure(step: int = step, seen: dict[str, Any] = seen) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            with torch.no_grad():
                model[0].weight.mul_(0.5)
            seen["old"], seen["grads"] = weights(model), {n: p.grad.clone() for n, p in model.named_parameters()}
            return loss

        assert optimizer.step(closure) is not None
        for name, new in weights(model).items():
            expected = quantities(seen["old"][name], new, seen["grads"][name], initial[name])
            small = {"rotation_angle": 1e-9, "cosine_distance": 1e-14}
            assert_close(monitor.latest()[name], expected, atol=small)


def test_a_closure_that_is_called_many_times() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    calls: list[dict[str, Tensor]] = []

    def closure() -> Tensor:
        calls.append(weights(model))
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    optimizer.step(closure=closure)
    moved = (calls[0]["0.weight"] - model[0].weight.detach()).double().norm().item()
    assert len(calls) > 1
    assert monitor.latest()["0.weight"]["update_norm"] == pytest.approx(moved, rel=1e-6)


def test_steps_that_gradscaler_skips_leave_no_record() -> None:
    kinds = [adam, lambda m: lp.LAMB(m.parameters()), lambda m: torch.optim.AdamW(m.parameters(), fused=True)]
    for make in kinds:
        model = network()
        optimizer = make(model)
        monitor = lp.Monitor(model, optimizer, every=1, out=None)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000)
        norms = []
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if step == 2:
                model[0].weight.grad[0, 0] = torch.inf
            norms.append(model[0].weight.grad.double().norm().item() / scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
        records = monitor.run.history
        assert len(records) == 3
        found = records["grad_norm"][:, 0].tolist()
        assert found == pytest.approx([norms[0], norms[1], norms[3]], rel=1e-5)
        assert (records["update_norm"] > 0).all()


def test_a_layer_that_is_held_back_is_told_apart() -> None:
    model = network()
    optimizer = lp.LAMB(model.parameters(), nonfinite="skip")
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    loss_of(model, 0).backward()
    model[0].weight.grad[0, 0] = torch.nan
    optimizer.step()
    latest = monitor.latest()
    assert latest["0.weight"]["grad_norm"] == torch.inf
    assert "relative_update_l2" not in latest["0.weight"]
    assert 0 < latest["2.weight"]["relative_update_l2"] < 1


def test_gradients_that_are_not_finite_are_told() -> None:
    for make in (adam, lambda m: lp.LAMB(m.parameters())):
        model = network()
        optimizer = make(model)
        monitor = lp.Monitor(model, optimizer, every=1, out=None)
        loss_of(model, 0).backward()
        model[0].weight.grad[0, 0] = torch.nan
        optimizer.step()
        assert monitor.latest()["0.weight"]["grad_norm"] == torch.inf
        assert monitor.latest()["0.weight"]["relative_update_l1"] == torch.inf
        assert monitor.latest()["2.bias"]["grad_norm"] < torch.inf


def test_a_step_that_raises_is_none() -> None:
    model = network()
    optimizer = lp.LAMB(model.parameters(), nonfinite="raise")
    monitor = lp.Monitor(model, optimizer, every=2, out=None)
    train(model, optimizer, 1)
    loss_of(model, 0).backward()
    model[0].weight.grad[0, 0] = torch.nan
    with pytest.raises(FloatingPointError):
        optimizer.step()
    train(model, optimizer, 1, first=1)
    assert monitor.step == 2
    monitor.flush()
    assert monitor.history.steps == [1, 2]


def test_records_are_read_in_their_order_when_their_numbers_have_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that is behind: nothing waits for it while the training goes on."""
    arrived: set[int] = set()
    monkeypatch.setattr(Transfer, "ready", property(lambda self: id(self) in arrived))
    model = network()
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=None, initial=None)
    train(model, optimizer, PENDING + 10)
    assert len(monitor.history) == 0
    arrived |= {id(record.numbers[0].values) for record in monitor._recorder._pending[:5]}
    arrived |= {id(monitor._recorder._pending[7].numbers[0].values)}
    train(model, optimizer, 1, first=PENDING + 10)
    assert monitor.history.steps == [1, 2, 3, 4, 5]
    train(model, optimizer, MOST_PENDING, first=PENDING + 11)  # now it waits, rather than filling the memory
    assert monitor.history.steps[-1] >= MOST_PENDING
    monitor.flush()
    assert monitor.history.steps == list(range(1, PENDING + 12 + MOST_PENDING))


# Which layers there are


def test_tied_weights_are_one_layer() -> None:
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    model.head.weight = model.embedding.weight
    optimizer = adam(model)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    model.head(model.embedding(torch.arange(5))).square().sum().backward()
    optimizer.step()
    assert list(monitor.latest()) == ["embedding.weight"]


def test_several_optimizers() -> None:
    model = network()
    first = lp.LAMB(model[0].parameters(), lr=0.01)
    second = torch.optim.SGD(model[2].parameters(), lr=0.01)
    monitor = lp.Monitor(model, [first, second], every=1, out=None)
    for step in range(4):
        model.zero_grad()
        loss_of(model, step).backward()
        first.step()
        if step % 2:
            second.step()
    latest = monitor.latest()
    assert list(latest) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert "trust_ratio" in latest["0.weight"] and "trust_ratio" not in latest["2.weight"]
    assert monitor.history.series("update_norm", "0.weight")[0] == [1, 2, 3, 4]
    assert monitor.history.series("update_norm", "2.weight")[0] == [1, 2]


def test_layers_without_gradient_and_outside_of_the_optimizer(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[1].parameters(), *model[3].parameters()], lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    model[0](torch.ones(2, 3)).sum().backward()  # 3 gets no gradient
    optimizer.step()
    monitor.close()
    trained = {layer.name: layer.trained for layer in monitor.run.layers}
    assert [trained[f"{k}.weight"] for k in range(4)] == [True, False, False, True]
    assert set(monitor.latest()) == {"0.weight", "0.bias"}
    assert [layer.name for layer in folder.load(tmp_path / "run")[0].layers] == list(trained)


@pytest.mark.parametrize("ours", [False, True])
def test_a_group_that_is_added_later(ours: bool, tmp_path: Path) -> None:
    model = network()
    kind: Any = lp.LAMB if ours else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    train(model, optimizer, 2)
    extra = nn.Parameter(torch.ones(3, 2))
    model.register_parameter("extra", extra)
    optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones_like(extra)
    optimizer.step()
    monitor.close()
    assert monitor.history.series("update_norm", "extra")[0] == [3]
    assert monitor.history["update_norm"].shape == (3, 5)
    [run] = folder.load(tmp_path / "run")
    assert run.history.series("update_norm", "extra")[0] == [3]
    assert run.history.series("update_norm", "0.weight")[0] == [1, 2, 3]


def test_wrappers_are_looked_through() -> None:
    class Holder(torch.optim.Optimizer):  # as accelerate's
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    model = network()
    optimizer = adam(model)
    wrapped = torch.compile(model)
    monitor = lp.Monitor(nn.DataParallel(wrapped), Holder(optimizer), every=1, out=None)
    train(model, optimizer, 1)
    assert list(monitor.latest()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("kind", ["ours", "wrapped", "torch"])
def test_two_monitors_of_one_optimizer(kind: str) -> None:
    model = network()
    makes: dict[str, Any] = {
        "ours": lambda p: lp.LAMB(p),
        "wrapped": lambda p: lp.wrap(torch.optim.SGD(p, lr=0.1), "rotation"),
    }
    optimizer = makes.get(kind, torch.optim.SGD)(model.parameters())
    often = lp.Monitor(model, optimizer, every=1, out=None)
    seldom = lp.Monitor(model, optimizer, every=3, out=None)
    train(model, optimizer, 6)
    seldom.close()
    train(model, optimizer, 2, first=6)
    assert often.run.history.steps == list(range(1, 9))
    assert seldom.history.steps == [1, 3, 6]
    if kind != "torch":
        assert often.history["trust_ratio"][:, 0].isfinite().all()


def test_layers_that_are_unfrozen(tmp_path: Path) -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=tmp_path / "run")
    train(model, optimizer, 3)
    model[0].requires_grad_(True)
    train(model, optimizer, 3, first=3)
    monitor.close()
    for run in (monitor.run, *folder.load(tmp_path / "run")):
        assert run.history.series("update_norm", "0.weight")[0] == [4, 5, 6]
        assert all(layer.trained for layer in run.layers)


def test_the_rotation_of_a_group_that_is_added_begins_with_it(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, rotation_every=4, out=tmp_path / "run")
    train(model, optimizer, 5)
    monitor.flush()
    start = model[2].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[2].parameters())})
    train(model, optimizer, 7, first=5)
    monitor.close()
    expected = quantities(start, model[2].weight, start, start)["cosine_distance"]
    assert monitor.history.series("cosine_distance", "2.weight")[1][-1] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(torch.load(tmp_path / "run" / "initial.pt", weights_only=True)["2.weight"], start)


# Memory, saving and going on


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
    with pytest.raises(FileExistsError, match="resume=True"):
        lp.Monitor(model, optimizer, out=tmp_path / "run")
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
    assert monitor.history.steps == [1] and not optimizer._keeper.readers
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"every": 2.5}, "every must be a whole number, got 2.5"),
        ({"rotation_every": 15}, "rotation_every must be a multiple of every=10, got 15"),
        ({"max_records": 1}, "max_records must be at least 2, got 1"),
        ({"initial": "fp16"}, "initial"),
        ({"sinks": ["tensorbord"]}, "sink"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    model = network()
    optimizer = adam(model)
    with pytest.raises((TypeError, ValueError), match=message):
        lp.Monitor(model, optimizer, out=None, **options)
    assert not optimizer._optimizer_step_pre_hooks


def test_what_is_no_model_or_optimizer() -> None:
    model = network()
    with pytest.raises(TypeError, match="Module, got list"):
        lp.Monitor([], adam(model))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizers, got StepLR"):
        lp.Monitor(model, torch.optim.lr_scheduler.StepLR(adam(model), 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        lp.Monitor(model, [])
    monitor = lp.Monitor(model, adam(model), out=None)
    with pytest.raises(ValueError, match="grad_norm/x"):
        monitor.log({"grad_norm/x": 1.0})
    with pytest.raises(ValueError, match="2 optimizers"):
        monitor.load_state_dict({"counts": [1, 2], "initial": {}})
    other = lp.Monitor(nn.Sequential(nn.Linear(2, 2)), adam(model), out=None)
    with pytest.raises(ValueError, match="is it the same model"):
        monitor.load_state_dict(other.state_dict() | {"initial": {"0.weight": torch.ones(2, 2)}})
