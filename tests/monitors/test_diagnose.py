"""Findings: networks broken on purpose are found, healthy ones left alone; small histories made by hand."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from layerpace.monitors.diagnose import SEVERITIES, Finding, Thresholds, diagnose
from layerpace.monitors.findings.depth import rank_correlation
from layerpace.monitors.findings.finding import named, times
from layerpace.monitors.history import History
from layerpace.monitors.run import LayerInfo, Run, Series

from . import broken

STEPS = 150
NETWORK = {f"block{k}.{part}": (16, 16) if part == "weight" else (16,) for k in range(4) for part in ("weight", "bias")}


def alarms(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


def kinds(findings: Sequence[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def only(findings: Sequence[Finding], kind: str) -> Finding:
    """The one finding of a kind."""
    (found,) = [finding for finding in findings if finding.kind == kind]
    return found


def made(
    change: Callable[[dict[str, Tensor]], None] = lambda values: None,
    shapes: Mapping[str, tuple[int, ...]] = NETWORK,
    steps: Sequence[int] = range(1, 402, 10),
    scalars: Mapping[str, Series] | None = None,
    **infos: Any,
) -> Run:
    """A healthy history, after ``change`` has had its way with its quantities, float64 [records, layers]."""
    names, count = list(shapes), len(steps)
    generator = torch.Generator().manual_seed(0)

    def around(size: Tensor) -> Tensor:
        noise = torch.randn(count, len(names), generator=generator, dtype=torch.float64)
        return size * 10 ** (0.1 * noise)

    rms = torch.tensor([0.25 if len(shape) > 1 else 0.05 for shape in shapes.values()])
    norms = rms * torch.tensor([float(math.prod(shape)) for shape in shapes.values()]).sqrt()
    update = around(torch.full((len(names),), 2e-3))
    values = {
        "weight_norm": norms.expand(count, -1).double().clone(),
        "relative_update_l1": update,
        "relative_update_l2": update.clone(),
        "update_norm": update * norms,
        "grad_norm": around(torch.ones(len(names))),
        "learning_rate": torch.full((count, len(names)), 0.01, dtype=torch.float64),
    }
    change(values)
    history = History(names)
    for place, step in enumerate(steps):
        history.append(step, float(step), {name: value[place] for name, value in values.items()})
    layers = [LayerInfo(name, shape, **infos.get(name, {})) for name, shape in shapes.items()]
    return Run("made", {"record_every": 10}, layers, history, scalars or {})


def place(name: str) -> int:
    return list(NETWORK).index(name)


def still(values: dict[str, Tensor], where: Any) -> None:
    """No update and no gradient there."""
    for name in ("relative_update_l1", "relative_update_l2", "update_norm", "grad_norm"):
        values[name][where] = 0.0


@pytest.mark.parametrize("name", broken.BROKEN)
def test_networks_broken_on_purpose_are_found(name: str) -> None:
    case = broken.BROKEN[name]
    findings = diagnose(broken.train(case, case.steps or STEPS))
    assert any(broken.tells(case, finding) for finding in findings), "\n".join(map(str, findings))


@pytest.mark.parametrize(
    ("network", "method", "schedule"),
    [
        ("MLP", "Adam", "warm-up, cosine"),
        ("MLP", "PercentDelta", "constant"),
        ("CNN", "LARS", "constant"),
        ("CNN", "SGD", "warm restarts"),
        ("ResNet", "LAMB", "warm-up, cosine"),
        ("ResNet", "Layca", "warm restarts"),
        ("transformer", "AdamW", "constant"),
        ("transformer, vocabulary", "SGD", "constant"),
    ],
)
def test_healthy_networks_are_left_alone(network: str, method: str, schedule: str) -> None:
    findings = diagnose(broken.train(broken.healthy(network, method, schedule), STEPS))
    assert alarms(findings) == []


def test_a_made_history_is_healthy() -> None:
    assert diagnose(made()) == []


def test_the_dead_module_is_singled_out() -> None:
    finding = only(diagnose(broken.train(broken.BROKEN["dead ReLU from the start"], STEPS)), "no_gradient")
    assert set(finding.layers) == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight"}
    assert "`2` is where they end" in finding.message


def test_nothing_is_said_of_few_records() -> None:
    def break_it(values: dict[str, Tensor]) -> None:
        still(values, (slice(None), place("block1.weight")))
        values["relative_update_l1"][:, place("block2.weight")] = 0.5

    assert diagnose(made(break_it, steps=range(1, 5))) == []
    assert kinds(diagnose(made(break_it, steps=range(1, 9)))) >= {"no_gradient"}


def test_an_empty_run_has_no_findings() -> None:
    assert diagnose(Run("empty", {}, [], History([]))) == []
    assert diagnose(made(steps=())) == []


@pytest.mark.parametrize("kept", ["weight_norm", "relative_update_l1", "grad_norm", "learning_rate"])
def test_quantities_that_were_not_recorded_are_no_findings(kept: str) -> None:
    def drop(values: dict[str, Tensor]) -> None:
        for name in list(values):
            if name != kept:
                del values[name]

    assert diagnose(made(drop)) == []


def test_layers_that_were_measured_at_times_are_no_findings() -> None:
    def gaps(values: dict[str, Tensor]) -> None:
        for value in values.values():
            value[::2, place("block1.weight")] = torch.nan
            value[1::3, place("block3.bias")] = torch.nan

    assert diagnose(made(gaps)) == []


def test_two_optimizers_that_take_turns_are_no_finding() -> None:
    def turns(values: dict[str, Tensor]) -> None:
        for value in values.values():
            value[::3, :4] = torch.nan
            value[1::3, 4:] = torch.nan
            value[2::3, 4:] = torch.nan

    assert diagnose(made(turns)) == []


def test_records_of_one_step_by_two_optimizers_are_one_record() -> None:
    def turns(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, :2] *= 100
        for value in values.values():
            value[::2, :2] = torch.nan
            value[1::2, 2:] = torch.nan

    steps = [step for step in range(1, 402, 20) for _ in range(2)]
    finding = only(alarms(diagnose(made(turns, steps=steps))), "out_of_step")
    assert finding.layers == ("block0.weight",)


@pytest.mark.parametrize("end", [0.0, 1e-5])
def test_a_schedule_that_ends_stops_no_layer(end: float) -> None:
    def decay(values: dict[str, Tensor]) -> None:
        factor = torch.linspace(1, end, len(values["grad_norm"]), dtype=torch.float64)[:, None]
        factor[-5:] = end
        for name in ("relative_update_l1", "relative_update_l2", "update_norm", "learning_rate"):
            values[name] *= factor

    assert diagnose(made(decay)) == []


def test_a_warm_up_from_zero_stops_no_layer() -> None:
    def warm(values: dict[str, Tensor]) -> None:
        factor = torch.linspace(0, 4, len(values["grad_norm"]), dtype=torch.float64).clamp(max=1)[:, None]
        for name in ("relative_update_l1", "relative_update_l2", "update_norm", "learning_rate"):
            values[name] *= factor

    assert diagnose(made(warm)) == []


def test_layers_that_start_at_zero_may_grow() -> None:
    def grow(values: dict[str, Tensor]) -> None:
        count = len(values["weight_norm"])
        for name in ("block1.weight", "block2.bias"):
            values["weight_norm"][:, place(name)] = torch.linspace(0, 4, count)
            values["relative_update_l1"][1:, place(name)] = 1 / torch.arange(1, count)
            values["relative_update_l1"][0, place(name)] = torch.nan

    assert alarms(diagnose(made(grow))) == []


def test_dead_from_a_step_on() -> None:
    def die(values: dict[str, Tensor]) -> None:
        still(values, (slice(20, None), place("block1.weight")))
        still(values, (slice(20, None), place("block1.bias")))

    finding = only(diagnose(made(die)), "no_gradient")
    assert finding.layers == ("block1.weight", "block1.bias")
    assert finding.steps == (201, 401)
    assert finding.severity == "warning"


def test_a_gradient_that_fades_is_dead_where_the_others_do_not() -> None:
    def fade(values: dict[str, Tensor]) -> None:
        values["grad_norm"][:, place("block1.weight")] *= torch.logspace(0, -6, 41)

    def fade_together(values: dict[str, Tensor]) -> None:
        values["grad_norm"] *= torch.logspace(0, -6, 41)[:, None]

    assert only(diagnose(made(fade)), "dead").layers == ("block1.weight",)
    assert diagnose(made(fade_together)) == []


def test_a_layer_that_gets_no_gradient_any_more() -> None:
    def leave(values: dict[str, Tensor]) -> None:
        for value in values.values():
            value[10:, place("block2.weight")] = torch.nan

    finding = only(diagnose(made(leave)), "no_gradient")
    assert finding.layers == ("block2.weight",)
    assert finding.steps == (91, 401)


def test_an_optimizer_that_is_no_longer_used_is_no_finding() -> None:
    def leave(values: dict[str, Tensor]) -> None:
        for value in values.values():
            value[::2, :4] = torch.nan
            value[1::2, 4:] = torch.nan
            value[20:, 4:] = torch.nan

    assert diagnose(made(leave)) == []


def test_a_rate_of_zero_is_told_after_the_others_have_come_to_it() -> None:
    def decay(values: dict[str, Tensor]) -> None:
        for name in ("relative_update_l1", "relative_update_l2", "update_norm", "learning_rate"):
            values[name][:, place("block1.weight")] = 0.0
            values[name][-12:] = 0.0

    assert only(diagnose(made(decay)), "zero_rate").layers == ("block1.weight",)


def test_frozen_layers_near_the_input_are_a_note_others_a_warning() -> None:
    def idle(*names: str) -> Run:
        def unmeasured(values: dict[str, Tensor]) -> None:
            for value in values.values():
                value[:, [place(name) for name in names]] = torch.nan

        return made(unmeasured, **{name: {"trained": False} for name in names})

    assert only(diagnose(idle("block0.weight", "block0.bias")), "untrained").severity == "note"
    assert only(diagnose(idle("block2.weight")), "untrained").severity == "warning"


def test_a_bias_that_stays_has_no_influence() -> None:
    def stay(values: dict[str, Tensor]) -> None:
        for name in ("relative_update_l1", "relative_update_l2", "update_norm"):
            values[name][:, place("block2.bias")] = 0.0
        values["grad_norm"][:, place("block2.bias")] = 1e-9

    finding = only(diagnose(made(stay)), "no_update")
    assert (finding.layers, finding.severity) == (("block2.bias",), "note")


def test_exponential_growth_is_told_from_growth_that_slows() -> None:
    count = 41
    times = torch.linspace(0, 1, count, dtype=torch.float64)

    def grow(factor: Tensor) -> Callable[[dict[str, Tensor]], None]:
        def change(values: dict[str, Tensor]) -> None:
            values["weight_norm"][:, place("block1.weight")] *= factor

        return change

    found = only(diagnose(made(grow(10 ** (1.7 * times)))), "runaway")
    assert found.layers == ("block1.weight",)
    assert "doubling" in found.message
    assert diagnose(made(grow(2 + 16 * times.sqrt()))) == []


def test_a_loss_that_climbs() -> None:
    steps = list(range(1, 402, 10))
    up = Series(steps, [1 + 0.2 * k for k in range(len(steps))])
    down = Series(steps, [10 / (1 + k) for k in range(len(steps))])
    assert only(diagnose(made(scalars={"train/loss": up})), "diverging").severity == "error"
    assert diagnose(made(scalars={"loss": down, "val_loss": up, "accuracy": up})) == []


def test_layers_out_of_step_are_told_by_how_much() -> None:
    def fast(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, place("block1.weight")] *= 50

    finding = only(diagnose(made(fast)), "out_of_step")
    assert finding.layers == ("block1.weight",)
    assert "faster" in finding.message
    (told,) = re.findall(r"(\S+) in log10", finding.evidence)
    assert float(told) == pytest.approx(math.log10(50), abs=0.15)


def test_a_layer_is_out_of_step_only_if_it_stays_so() -> None:
    def at_times(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][::2, place("block1.weight")] *= 50

    assert diagnose(made(at_times)) == []


def test_two_speeds() -> None:
    slow = [place(name) for name in ("block0.weight", "block1.weight")]

    def half(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, slow] /= 100

    def half_at_times(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, slow] /= 100
        values["relative_update_l1"][::3, slow] *= 100

    finding = only(diagnose(made(half)), "out_of_step")
    assert finding.layers == ("block0.weight", "block1.weight")
    assert "two speeds" in finding.message
    assert diagnose(made(half_at_times)) == []


def test_biases_are_judged_among_themselves_and_told_together() -> None:
    biases = [place(name) for name in NETWORK if name.endswith("bias")]

    def fast(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, biases] *= 100

    assert diagnose(made(fast)) == []

    def still_biases(values: dict[str, Tensor]) -> None:
        for name in ("relative_update_l1", "relative_update_l2", "update_norm", "learning_rate"):
            values[name][:, biases] = 0.0

    finding = only(diagnose(made(still_biases)), "zero_rate")
    assert "All biases" in finding.message or "`block0.bias`" in finding.message
    assert len(finding.layers) == 4


def _bad(quantity: str, first: int, names: Sequence[str], last: int | None = None) -> Callable[..., None]:
    def change(values: dict[str, Tensor]) -> None:
        for name in names:
            values[quantity][first:last, place(name)] = torch.inf

    return change


def test_where_values_were_first_not_finite() -> None:
    finding = only(diagnose(made(_bad("grad_norm", 7, ["block2.weight"]))), "nonfinite")
    assert finding.steps == (71, 401)
    assert finding.layers == ("block2.weight",)
    assert "the gradient of `block2.weight`" in finding.message

    several = ["block0.weight", "block0.bias", "block1.weight"]
    finding = only(diagnose(made(_bad("grad_norm", 7, several))), "nonfinite")
    assert finding.layers == tuple(several)
    assert "so `block1.weight`, the last of them" in finding.message

    finding = only(diagnose(made(_bad("grad_norm", 7, list(NETWORK)))), "nonfinite")
    assert "loss itself" in finding.message

    finding = only(diagnose(made(_bad("weight_norm", 7, ["block3.bias"]))), "nonfinite")
    assert "the weights of `block3.bias`" in finding.message


def test_not_measured_norms_of_a_measured_layer_are_not_finite() -> None:
    def lost(values: dict[str, Tensor]) -> None:
        values["grad_norm"][7:, place("block2.weight")] = torch.nan

    assert only(diagnose(made(lost)), "nonfinite").layers == ("block2.weight",)


def test_what_comes_before_is_still_judged_and_what_comes_after_is_not() -> None:
    def change(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:30, place("block1.weight")] *= 50
        values["relative_update_l1"][30:, place("block2.weight")] *= 1e4
        values["weight_norm"][30:, 0] = torch.inf

    findings = diagnose(made(change))
    assert kinds(findings) == {"nonfinite", "out_of_step"}
    assert only(findings, "out_of_step").layers == ("block1.weight",)

    def early(values: dict[str, Tensor]) -> None:
        for value in values.values():
            value[2:] = torch.inf
        values["relative_update_l1"][:, place("block1.weight")] = 0.5

    assert kinds(diagnose(made(early))) == {"nonfinite"}


def test_gradients_that_overflow_at_times_are_a_note() -> None:
    finding = only(diagnose(made(_bad("grad_norm", 3, ["block2.weight"], 5))), "nonfinite_steps")
    assert finding.severity == "note"
    assert finding.steps == (31, 41)


def test_a_loss_that_is_not_finite() -> None:
    series = Series([1, 11, 21], [1.0, math.nan, math.inf])
    finding = only(diagnose(made(scalars={"loss": series})), "nonfinite_loss")
    assert (finding.severity, finding.steps) == ("error", (11, 21))


def test_clips_need_a_clip() -> None:
    def ratios(values: dict[str, Tensor]) -> None:
        values["trust_ratio"] = torch.full_like(values["grad_norm"], 0.5)

    def bound_in_one(values: dict[str, Tensor]) -> None:
        ratios(values)
        values["trust_ratio_unclipped"] = values["trust_ratio"].clone()
        values["trust_ratio_unclipped"][:, place("block1.weight")] = 0.7
        values["trust_ratio_unclipped"][::2, place("block2.weight")] = 0.7

    assert diagnose(made(ratios)) == []
    finding = only(diagnose(made(bound_in_one)), "clip_always")
    assert (finding.layers, finding.severity) == (("block1.weight",), "note")


def test_rotation_stalls_only_where_the_curve_flattens_below_one() -> None:
    times = torch.linspace(0, 1, 61, dtype=torch.float64)
    curves = {"flat": 0.3 * (times * 4).clamp(max=1), "rising": 0.3 * times, "done": (times * 4).clamp(max=1)}

    def curve(values: dict[str, Tensor]) -> None:
        values["cosine_distance"] = torch.stack(
            [curves["flat" if "1.w" in name else "rising" if "2" in name else "done"] for name in NETWORK], 1
        )

    finding = only(diagnose(made(curve, steps=range(1, 602, 10))), "rotation_stalled")
    assert finding.layers == ("block1.weight",)
    assert "0.3" in finding.message


def test_thresholds_move_the_lines() -> None:
    def fast(values: dict[str, Tensor]) -> None:
        values["relative_update_l1"][:, place("block1.weight")] *= 50

    assert diagnose(made(fast), Thresholds(out_of_step_note=3.0, split_note=3.0)) == []
    with pytest.raises(ValueError, match="window must be above 0, got -1"):
        Thresholds(window=-1)


def test_findings_are_told_worst_first() -> None:
    findings = diagnose(broken.train(broken.BROKEN["deep sigmoid network, SGD"], STEPS))
    order = [SEVERITIES.index(finding.severity) for finding in findings]
    assert len(order) > 1
    assert order == sorted(order)


def test_a_finding_reads_well() -> None:
    finding = Finding("dead", "warning", ("a",), (1, 9), "`a` is dead.", "gradient 0", "look there.")
    assert str(finding) == "warning: `a` is dead. (steps 1 to 9)\n    evidence: gradient 0\n    try: look there."
    assert str(dataclasses.replace(finding, steps=None)).startswith("warning: `a` is dead.\n")


def test_layers_are_named_by_what_they_share() -> None:
    layers = [LayerInfo(f"stage{s}.{k}.{part}", (4, 4) if part == "weight" else (4,))
              for s in range(2) for k in range(3) for part in ("weight", "bias")]  # fmt: skip
    names = [layer.name for layer in layers]
    assert named(names[:2], layers) == "`stage0.0.weight` and `stage0.0.bias`"
    assert named(names, layers) == "all layers (12)"
    assert named(names[1::2], layers) == "all biases (6)"
    assert named(names[:6], layers) == "all 6 layers of `stage0`"
    assert named(names[:5], layers).endswith("and 2 more")


def test_ratios_and_ranks() -> None:
    assert [times(x) for x in (0.3, -1.0, 2.013, 5.0)] == ["2 times", "10 times", "100 times", "1e+05 times"]
    assert rank_correlation(torch.tensor([1.0, 2.0, 5.0, 9.0])) == pytest.approx(1)
    assert rank_correlation(torch.tensor([9.0, 5.0, 2.0, 1.0])) == pytest.approx(-1)


def test_layers_that_a_velocity_carries_on_at_rate_zero() -> None:
    import layerpace as lp

    schedules: dict[str, Callable[[int], float]] = {
        "warm-up from 0": lambda t: min(t / 10, 1.0),
        "linear to the end": lambda t: 1 - t / 40,
        "a cosine through 0": lambda t: 0.5 * (1 + math.cos(math.pi * t / 20)),
        "to 0 in the middle": lambda t: float(t < 20),
    }
    for name, schedule in schedules.items():
        w = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model = torch.nn.ParameterDict({"w": torch.nn.Parameter(w)})
        optimizer = lp.LARS(model.parameters(), lr=5.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        with lp.Monitor(model, optimizer, every=1, out=None) as monitor:
            for _ in range(40):
                model["w"].grad = model["w"].detach().clone()
                optimizer.step()
                scheduler.step()
        found = [finding for finding in monitor.diagnose() if finding.kind == "moves_at_rate_zero"]
        assert len(found) == (name == "to 0 in the middle"), (name, found)
        if found:
            assert found[0].steps == (21, 40)
            assert found[0].layers == ("w",)


@pytest.mark.parametrize(
    ("rows", "factor", "found"),
    [
        (slice(30, None), 0.5, True),
        (slice(30, None), 0.05, False),
        (slice(30, None, 2), 0.5, False),
        (slice(0), 0, False),
    ],
)
def test_a_rate_of_zero_counts_where_it_stays_and_the_layer_moves(rows: slice, factor: float, found: bool) -> None:
    def change(values: dict[str, Tensor]) -> None:
        values["learning_rate"][rows] = 0.0
        for name in ("relative_update_l1", "relative_update_l2", "update_norm"):
            values[name][rows] *= factor

    assert ("moves_at_rate_zero" in kinds(diagnose(made(change)))) == found
