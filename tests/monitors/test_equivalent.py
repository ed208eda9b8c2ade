"""Rates that carry over, from records whose numbers are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp
from layerpace import cli
from layerpace.monitors import History, LayerInfo, NoRates, Run, equivalent_rates


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 6))


def watched(optimizer_of: Any, steps: int = 40, schedule: Any = None, **options: Any) -> lp.Monitor:
    model = network()
    optimizer = optimizer_of(model.parameters())
    scheduler = schedule(optimizer) if schedule else None
    generator = torch.Generator().manual_seed(1)
    with lp.Monitor(model, optimizer, every=1, **{"out": None, **options}) as monitor:
        for _ in range(steps):
            x = torch.randn(16, 12, generator=generator)
            optimizer.zero_grad()
            (model(x) - x[:, :6].sin()).square().mean().backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return monitor


def adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=3e-3, weight_decay=0.02)


def test_a_method_at_its_rate_moves_the_median_matrix_as_far_as_the_source() -> None:
    """LAMB and Layca by their laws: at lr = s a matrix moves by s of its norm, and turns by atan(lr)."""
    monitor = watched(adamw)
    rates = monitor.equivalent_rates()
    history = monitor.run.history
    wide = [k for k, layer in enumerate(monitor.run.layers) if len(layer.shape) == 2]
    late = slice(4, None)  # the first tenth does not count
    share = history["relative_update_l2"][late][:, wide].double().median(0).values
    assert rates["LAMB"].lr == pytest.approx(float(share.median()), rel=1e-6)
    assert (rates["LAMB"].low, rates["LAMB"].high) == pytest.approx(
        (float(share.quantile(0.25)), float(share.quantile(0.75))), rel=1e-6
    )
    angle = history["rotation_angle"][late][:, wide].double().tan().median(0).values
    assert rates["Layca"].lr == pytest.approx(float(angle.median()), rel=1e-6)
    assert rates["LAMB"].layers == 3 and rates.steps == (5, 40)
    model = network()
    lamb = lp.LAMB(model, **rates["LAMB"].options())
    assert lamb.param_groups[0]["weight_decay"] == 0.02 and lamb.param_groups[0]["lr"] == rates["LAMB"].lr
    layca = lp.Layca(model, **rates["Layca"].options())
    assert isinstance(layca.direction, lp.directions.Adam)
    for name, cls in (("LARS", lp.LARS), ("PercentDelta", lp.PercentDelta), ("Layerwise", lp.Layerwise)):
        cls(network(), **rates[name].options())


def test_a_schedule_carries_over_as_it_is() -> None:
    """Rates are those at the largest rate, whatever the schedule made of it, and warm-up records do not count."""
    plain = watched(adamw, 60).equivalent_rates()

    def warm(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 20))

    warmed = watched(adamw, 60, warm).equivalent_rates()
    assert warmed.steps[0] > plain.steps[0]
    for name, rate in plain.items():
        assert warmed[name].lr == pytest.approx(rate.lr, rel=0.5)


def test_sgd_with_momentum_gives_lars_its_gradients_share() -> None:
    """With the same momentum, LARS's step before the velocity is lr*|W|: the source's is lr*|g|."""
    monitor = watched(lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-4))
    rates, history = monitor.equivalent_rates(), monitor.run.history
    wide = [k for k, layer in enumerate(monitor.run.layers) if len(layer.shape) == 2]
    ratio = (history["grad_norm"] / history["weight_norm"])[4:][:, wide].double().median(0).values
    assert rates["LARS"].lr == pytest.approx(0.05 * float(ratio.median()), rel=0.1)
    assert rates["LARS"].more["momentum"] == 0.9 and rates["LARS"].more["weight_decay"] == 1e-4
    assert rates["Layca"].more == {"momentum": 0.9}
    assert "SGD, momentum 0.9, lr 0.05" in str(rates)


def test_twice_the_rate_of_the_source_is_twice_that_of_every_method() -> None:
    def records(lr: float) -> Run:
        history = History(["a", "b"])
        for step in range(1, 6):
            per_lr = ("relative_update_l2", "relative_update_l1", "update_norm", "rotation_angle")
            values = {name: [lr, 2 * lr] for name in per_lr} | {"learning_rate": [lr, lr]}
            values |= {name: [1.0, 1.0] for name in ("grad_norm", "weight_norm")}
            history.append(step, float(step), {name: torch.tensor(v) for name, v in values.items()})
        layers = [LayerInfo("a", (10, 10)), LayerInfo("b", (10, 10))]
        optimizer = {"class": "AdamW", "groups": [{"lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.0}]}
        return Run("r", {"optimizers": [optimizer]}, layers, history)

    one, two = equivalent_rates(records(0.01)), equivalent_rates(records(0.02))
    for name in one:
        assert two[name].lr == pytest.approx(2 * one[name].lr, rel=1e-3)  # of small angles
    assert one["LAMB"].lr == pytest.approx(0.015, rel=0.01) and one["LAMB"].high > one["LAMB"].low


@pytest.mark.parametrize(
    ("make", "steps", "says"),
    [
        (adamw, 2, "2 records are too few: at least 3"),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), 9, "rates carry over from AdamW, Adam and SGD, .* Adagrad"),
        (lambda p: lp.LAMB(p, lr=0.01), 9, "a run of LAMB with the rule TrustRatio"),
        (lambda p: torch.optim.AdamW(p, lr=0.0), 9, "no matrix has moved at a rate above 0"),
    ],
)
def test_runs_that_say_nothing_of_rates(make: Any, steps: int, says: str) -> None:
    with pytest.raises(NoRates, match=says):
        watched(make, steps).equivalent_rates()
    with pytest.raises(ValueError, match="skip must be"):
        equivalent_rates(watched(adamw, 5).run, skip=1.0)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["layerpace", "rates", *arguments])
        status: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    monitor = watched(adamw, out=tmp_path / "runs/one")
    expected = monitor.equivalent_rates()
    status, out, _ = typed(str(tmp_path / "runs/one"))
    assert status == 0 and out.splitlines()[0] == str(expected).splitlines()[0] and "LAMB" in out
    status, out, _ = typed(str(tmp_path / "runs"), "--json")
    assert json.loads(out)["methods"]["LAMB"]["options"]["lr"] == pytest.approx(expected["LAMB"].lr, rel=1e-4)
    watched(lambda p: lp.LAMB(p, lr=0.01), 9, out=tmp_path / "runs/two")
    for arguments, says in (
        ((str(tmp_path / "runs"),), "holds several runs; pass --run with one of"),
        ((str(tmp_path / "runs"), "--run", "three"), "no run 'three'"),
        ((str(tmp_path / "nothing"),), "no recorded run in"),
        ((str(tmp_path / "runs"), "--run", "two"), "a run of LAMB with the rule TrustRatio"),
    ):
        status, out, err = typed(*arguments)
        assert (status, out) == (2, "") and says in err and err.count("\n") == 1


def test_layers_far_apart_are_said_to_be() -> None:
    """A median of layers that differ a thousandfold is no layer's rate."""
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with lp.Monitor(model, optimizer, every=1, out=None) as monitor:
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(16, 12, generator=torch.Generator().manual_seed(2))).square().mean().backward()
            optimizer.step()
    assert any("differ by a factor of" in line for line in monitor.equivalent_rates().assumes)
    assert not any("differ" in line for line in watched(adamw).equivalent_rates().assumes)
