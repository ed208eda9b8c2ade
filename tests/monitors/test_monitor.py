"""The monitor as a guest in other people's training loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods import few
from tests.monitors.recomputed import assert_close, quantities
from tests.monitors.training import adam, loss_of, network, train, weights
from torch import Tensor, nn

import layerpace as lp
from layerpace.monitors import folder
from layerpace.monitors.recorder import MOST_PENDING, PENDING
from layerpace.monitors.transfer import Transfer

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
    assert not monitor.history._rows  # to read them from outside would wait
    arrived |= {id(record.numbers[0].values) for record in list(monitor._recorder._pending)[:5]}
    arrived |= {id(monitor._recorder._pending[7].numbers[0].values)}
    train(model, optimizer, 1, first=PENDING + 10)
    assert [row.step for row in monitor.history._rows] == [1, 2, 3, 4, 5]
    train(model, optimizer, MOST_PENDING, first=PENDING + 11)  # now it waits, rather than filling the memory
    assert monitor.history._rows[-1].step >= MOST_PENDING
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
    for nothing in ({}, None, [], {"counts": 3}, {"counts": "1"}, {"counts": [1], "initial": 2}):
        with pytest.raises(ValueError, match="no state of a monitor"):
            monitor.load_state_dict(nothing)  # type: ignore[arg-type]
    for count, error in ((-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"counts\[0\]"):
            monitor.load_state_dict({"counts": [count]})
    other = lp.Monitor(nn.Sequential(nn.Linear(2, 2)), adam(model), out=None)
    with pytest.raises(ValueError, match="is it the same model"):
        monitor.load_state_dict(other.state_dict() | {"initial": {"0.weight": torch.ones(2, 2)}})
