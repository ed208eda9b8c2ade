"""No finding advises what is in use already, and nothing is said of layers without entries."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.monitors.test_diagnose import made, only
from tests.monitors.training import loss_of, network
from torch import Tensor, nn

import layerpace as lp
from layerpace import cli
from layerpace.monitors import diagnose, folder
from layerpace.monitors.run import LayerInfo, Run, Series

NORMS = {f"block{k}.{part}": (16, 16) if part == "weight" else (16,) for k in range(4) for part in ("weight", "scale")}


def optimizers(**options: Any) -> dict[str, Any]:
    return {"optimizers": [{"class": "Layca", "rule": {"name": "Rotation"}, "groups": [{"lr": 0.1}], **options}]}


def with_settings(run: Run, settings: Any) -> Run:
    return dataclasses.replace(run, settings=settings)


def ruled(values: dict[str, Tensor]) -> None:
    """A layer-wise rule for the matrices."""
    values["trust_ratio"] = torch.full_like(values["grad_norm"], math.nan)
    values["trust_ratio"][:, ::2] = 1.0


def test_a_norms_scale_under_a_rule_is_not_told_to_use_one() -> None:
    def fast_scale(values: dict[str, Tensor]) -> None:
        values["weight_norm"][:, 1::2] = 4.0  # scales, not biases
        values["relative_update_l1"][:, 3] *= 30

    def fast_scale_under_a_rule(values: dict[str, Tensor]) -> None:
        fast_scale(values)
        ruled(values)

    plain = only(diagnose(made(fast_scale, NORMS)), "out_of_step")
    assert "use a layer-wise rule (LARS, LAMB, PercentDelta, Layca)" in plain.suggestion
    found = only(diagnose(made(fast_scale_under_a_rule, NORMS)), "out_of_step")
    assert found.layers == ("block1.scale",) and "Layca" not in found.suggestion
    assert "the layer-wise rule leaves it out (exclude)" in found.suggestion

    def fast_matrix(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, 2] *= 30
        ruled(values)

    found = only(diagnose(made(fast_matrix, NORMS)), "out_of_step")
    assert found.layers == ("block1.weight",) and found.suggestion.endswith(
        "check its initial scale, or set its lr_multiplier or its group's lr."
    )


def test_advice_leaves_out_what_is_in_use() -> None:
    def grows(values: dict[str, Tensor]) -> None:
        values["weight_norm"][:, 2] *= torch.logspace(0, 4, len(values["weight_norm"]), dtype=torch.float64)

    def warmed(values: dict[str, Tensor]) -> None:
        values["learning_rate"][:3] *= 0.1

    def both(values: dict[str, Tensor]) -> None:
        grows(values), warmed(values)

    decays = {"groups": [{"lr": 0.1, "weight_decay": 0.1}]}
    plain = only(diagnose(made(grows)), "runaway").suggestion
    assert plain.startswith("lower the learning rate or warm it up, clip gradients, add weight decay; ")
    used = with_settings(made(both), optimizers(max_grad_norm=1.0, **decays))
    assert only(diagnose(used), "runaway").suggestion.startswith("lower the learning rate; a normalisation")

    loss = {"loss": Series(list(range(1, 402, 10)), [0.1 * k + 1 for k in range(41)])}
    for settings, end in (({}, "warm it up, and clip gradients."), ({"gradient_clip_val": 1.0}, "or warm it up.")):
        run = with_settings(made(scalars=loss), settings)
        assert only(diagnose(run), "diverging").suggestion.endswith(end)

    def bad(values: dict[str, Tensor]) -> None:
        values["grad_norm"][20:] = math.inf
        values["weight_norm"][20:] = math.inf

    for settings, told in (({}, True), (optimizers(nonfinite="skip"), False)):
        found = only(diagnose(with_settings(made(bad), settings)), "nonfinite")
        assert ('nonfinite="skip"' in found.suggestion) == told

    def stalls(values: dict[str, Tensor]) -> None:
        values["cosine_distance"] = torch.linspace(0, 1, 41, dtype=torch.float64).clamp(max=0.5)[:, None].repeat(1, 8)

    for settings, told in (({}, True), (optimizers(), False)):
        run = with_settings(made(stalls, steps=range(1, 1202, 30)), settings)
        found = only(diagnose(run), "rotation_stalled")
        assert ("Layca" in found.suggestion) == told


@pytest.mark.parametrize("settings", [None, [], "x", {"optimizers": [3, {"rule": 7, "groups": [None, 1]}, {}]}])
def test_settings_of_any_form_are_no_error(settings: Any) -> None:
    assert diagnose(with_settings(made(), settings)) == []


def test_what_an_optimizer_does_about_gradients_is_among_the_settings() -> None:
    model = network()
    optimizer = lp.LAMB(model.parameters(), nonfinite="skip", max_grad_norm=2.0)
    described = lp.Monitor(model, optimizer, out=None).run.settings["optimizers"][0]
    assert described["nonfinite"] == "skip" and described["max_grad_norm"] == 2.0


class Holed(nn.Sequential):
    """A network with parameters that have no entries."""

    def __init__(self) -> None:
        super().__init__(*network())
        self.none = nn.Parameter(torch.empty(0, 4))
        self.narrow = nn.Parameter(torch.empty(4, 0))
        self.vector = nn.Parameter(torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        nothing: Tensor = self.none.sum() + self.narrow.sum() + self.vector.sum()
        return super().forward(x) + nothing


@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_nothing_is_said_of_a_parameter_without_entries(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Holed()
    parameters = model.named_parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1) if kind == "torch" else lp.LAMB(parameters, lr=0.01)
    with lp.Monitor(model, optimizer, every=1, rotation_every=1, out=tmp_path / "run") as monitor:
        for step in range(20):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    empty = {"none", "narrow", "vector"}
    assert empty.isdisjoint(monitor.latest())
    for run in (monitor.run, *folder.load(tmp_path / "run")):
        for finding in diagnose(run):
            assert empty.isdisjoint(finding.layers), finding
        assert all(run.history.series(q, "none") == ([], []) for q in run.history.quantities if q != "learning_rate")
    for command in (["report", str(tmp_path / "run")], ["watch", str(tmp_path / "run"), "--once"]):
        monkeypatch.setattr("sys.argv", ["layerpace", *command])
        cli.main()
    assert "error" not in capsys.readouterr().err


def test_records_of_empty_layers_that_others_wrote_are_not_judged() -> None:
    def zeros(values: dict[str, Tensor]) -> None:
        for name in ("weight_norm", "grad_norm", "update_norm"):
            values[name][:, 8] = 0.0

    shapes = {**NORMS, "none": (0, 4)}
    run = made(zeros, shapes)
    assert diagnose(run) == []
    layers = [*run.layers[:-1], LayerInfo("none", (0, 4), trained=False)]
    assert diagnose(dataclasses.replace(run, layers=layers)) == []
