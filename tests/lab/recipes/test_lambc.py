"""The LAMBC recipes: which runs they ask for, what they read from them, and how they judge made figures."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch

from layerpace.lab.methods import parse_method
from layerpace.lab.recipes import lambc
from layerpace.lab.recipes.lambc import measures as lambc_measures
from layerpace.lab.recipes.lambc import ratios_by_layer as layers
from layerpace.lab.recipes.lambc import runs as lambc_runs
from layerpace.lab.recipes.lambc.bounds import ADAPTIVE_BOUNDS, COMPARED, FIGURE_2
from layerpace.lab.recipes.lambc.imagenet import FIGURE_3, made_imagenet64
from layerpace.lab.recipes.lambc.runs import BOUNDS, NONE, method, setting
from layerpace.lab.recipes.lambc.table import TABLE_1
from layerpace.lab.recipes.recipe import Data, Finding, Recipe, Scale
from layerpace.lab.recipes.records import Record, Records, key
from layerpace.lab.recipes.statistics import interval
from layerpace.lab.tasks import from_reference
from layerpace.rules.clips import Bounds, FallingBound, RunningBounds, TighteningBounds, clip_rule

CPU, PAPER, SMOKE = Scale("cpu"), Scale("paper", "cuda"), Scale("smoke")


def asked(recipe: Recipe, scale: Scale) -> list[dict[str, Any]]:
    return list(recipe.runs(scale, Records()))


def test_table_1_at_the_papers_scale_is_the_papers() -> None:
    requests = asked(TABLE_1, PAPER)
    assert len(requests) == 2 * 3 * 5
    assert {(request["batch_size"], request["steps"]) for request in requests} == {
        (1000, 4000),
        (2000, 2000),
        (3000, 1280),
    }
    assert {request["lr"] for request in requests} == {0.01}
    assert {request["device"] for request in requests} == {"cuda"}
    assert {request["task"] for request in requests} == {
        "layerpace.recipes.tasks:images(data='cifar10', model='resnet-18')"
    }


def test_small_batches_are_the_same_shares_of_the_data() -> None:
    small, large = setting(CPU), setting(PAPER)
    per_epoch = [small.per_epoch(batch) for batch in small.batches]
    assert per_epoch == [large.per_epoch(batch) for batch in large.batches] == [50, 25, 16]
    assert f"train={small.train}," in small.task
    assert len(small.seeds) >= 3


@pytest.mark.parametrize("scale", [SMOKE, CPU, PAPER])
def test_recipes_share_their_runs(scale: Scale) -> None:
    table, bounds, adaptive = (
        {key(request) for request in asked(recipe, scale)} for recipe in (TABLE_1, FIGURE_2, ADAPTIVE_BOUNDS)
    )
    seeds = len(setting(scale).seeds)
    assert (len(table), len(bounds), len(adaptive)) == (6 * seeds, 5 * seeds, 6 * seeds)
    assert len(table & bounds & adaptive) == 2 * seeds
    assert len(table | bounds | adaptive) == 13 * seeds


def test_narrow_networks_are_never_in_float32() -> None:
    """oneDNN writes out of bounds there; see `runs.setting`."""
    requests = [request for scale in (SMOKE, CPU) for recipe in lambc.RECIPES for request in asked(recipe, scale)]
    plain = {request["task"] for request in requests if request.get("dtype", "fp32") == "fp32"}
    assert len(plain) == 3  # smoke scale's two, and made images at cpu scale
    for task in plain:
        convolutions = [m for m in from_reference(task).model().modules() if isinstance(m, torch.nn.Conv2d)]
        assert convolutions[0].out_channels >= 16 and min(m.out_channels for m in convolutions) >= 16
    assert {request["dtype"] for request in requests if "width" in request["task"]} == {"bf16"}


@pytest.mark.parametrize(
    ("clip", "rule"),
    [
        (NONE, None),
        ("3", Bounds(0, 3)),
        ("running 1", RunningBounds(deviations=1)),
        ("running 2", RunningBounds(deviations=2)),
        ("tightening", TighteningBounds(final=1, gamma=0.004)),
        ("falling", FallingBound(start=10, end=1, steps=500)),
    ],
)
def test_methods_are_what_they_say(clip: str, rule: object) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer: Any = parse_method(method(clip, 1000)).build(list(model.named_parameters()), 0.01)
    assert clip_rule(optimizer.rule.clip) == rule
    assert optimizer.rule.zero_ratio == 1
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError):
        method("sometimes", 1000)


class Ratios:
    """The history of a run; without a clip it has one quantity only."""

    layers = ("conv.weight", "norm.weight", "norm.bias")

    def __init__(self, clipped: bool) -> None:
        self.clipped = clipped

    def __contains__(self, quantity: str) -> bool:
        return self.clipped or quantity == "trust_ratio"


class Series:
    """A run that knows its layers, their ratios and its scores."""

    def __init__(self, clipped: bool, scale: float = 1.0, diverged: bool = False) -> None:
        self.history = Ratios(clipped)
        self.layers = ["conv.weight"]
        self.diverged = diverged
        self.scale = scale
        self.result = {"test_score": None if diverged else 0.5, "train_score": 0.9}
        self.curve = [{"step": step, "test_score": step / 100} for step in (0, 10, 20, 30, 40)]

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        own = {"conv.weight": [0.1, 0.2, 0.4], "norm.weight": [90.0, 4.0, 12.0], "norm.bias": [1.0, float("nan"), 0.1]}
        values = [value * self.scale for value in own[layer]]
        if quantity == "trust_ratio" and self.history.clipped:
            values = [min(value, 1.0) for value in values]
        return [1, 20, 40], values


def runs_of(*made: Series) -> list[Record]:
    return cast("list[Record]", list(made))


def test_what_is_read_from_runs() -> None:
    chosen = lambc_runs.Setting("task", 100, 4, (10,), range(2), 4)
    found = lambc_measures.outcome(runs_of(Series(True), Series(True, 2.0)), chosen, 10)
    assert found["scores"] == [0.4, 0.4]  # of steps above 30
    assert found["end"] == [0.5, 0.5] and found["train"] == [0.9, 0.9] and found["diverged"] == 0
    assert found["early"] == [0.1, 0.1]  # of steps up to 10, without the start
    assert found["largest"] == [12, 24]  # step 1 is before a tenth of the steps
    assert found["curve"]["epoch"] == [0, 1, 2, 3, 4]
    scales = found["ratios"]["scales"]
    assert (scales["epoch"], scales["low"], scales["high"]) == ([0.1, 2, 4], [90, 4, 12], [180, 8, 24])
    shifts = found["ratios"]["shifts"]  # one is not defined, and is left out
    assert (shifts["epoch"], shifts["middle"]) == ([0.1, 4], [1.5, 0.15])
    assert found["applied"]["scales"]["high"] == [1, 1, 1]
    assert found["above"]["scales"] == {"1": 1.0, "3": 1.0, "5": round(5 / 6, 4), "10": round(4 / 6, 4)}
    free = lambc_measures.outcome(runs_of(Series(False)), chosen, 10)
    assert free["applied"] == free["ratios"]
    lost = lambc_measures.outcome(runs_of(Series(False, diverged=True)), chosen, 10, classes=4)
    assert lost["scores"] == lost["end"] == [0.25] and lost["diverged"] == 1


def outcome(scores: list[float], early: list[float] | None = None, largest: float = 20.0) -> dict[str, Any]:
    spread = {"epoch": [1.0, 2.0], "low": [0.1, 0.2], "middle": [0.3, 0.4], "high": [2.0, largest]}
    kinds = ("kernels", "scales", "shifts")
    return {
        "scores": scores,
        "train": [1.0] * len(scores),
        "diverged": 0,
        "early": early or [0.3] * len(scores),
        "largest": [largest] * len(scores),
        "curve": {"epoch": [0.0, 1.0], "mean": [0.1, 0.5], "low": [0.1, 0.4], "high": [0.1, 0.6]},
        "ratios": dict.fromkeys(kinds, spread),
        "applied": dict.fromkeys(kinds, spread),
        "above": {kind: dict.fromkeys(BOUNDS, 0.5) for kind in kinds},
    }


UP, DOWN, NOISE = [0.52, 0.53, 0.515], [0.48, 0.47, 0.485], [0.45, 0.56, 0.5]
LOW = [0.5, 0.5, 0.5]


def table(clip: list[float], early: list[float] | None = None, largest: float = 20.0) -> Data:
    panel = {"1": outcome(clip, early), NONE: outcome(LOW, largest=largest)}
    panels = {"8": panel, "16": copy.deepcopy(panel), "24": copy.deepcopy(panel)}
    return {"scale": "cpu", "batches": [8, 16, 24], "panels": panels}


def verdicts(findings: list[Finding]) -> list[str]:
    return [finding.verdict for finding in findings]


def test_table_1_is_judged_by_the_seeds() -> None:
    held = TABLE_1.findings(table(UP))
    assert verdicts(held) == ["holds"] * 3 + ["not decided", "holds", "holds"]
    assert "+2.17" in held[0].ours and "batch 8: 52.17" in held[0].ours
    assert verdicts(TABLE_1.findings(table(DOWN)))[:3] == ["does not hold"] * 3
    assert verdicts(TABLE_1.findings(table(NOISE)))[:3] == ["not decided"] * 3
    more = table(UP)
    more["panels"]["8"]["1"]["scores"] = [0.6, 0.61, 0.6]
    assert verdicts(TABLE_1.findings(more))[3] == "holds"
    always = table(UP, early=[0.31, 0.315, 0.31])
    assert verdicts(TABLE_1.findings(always))[4] == "does not hold"
    assert verdicts(TABLE_1.findings(table(UP, largest=3.0)))[5] == "does not hold"
    assert "training images 100.00 ± 0.00% and" in held[1].ours


def test_batches_of_a_seed_are_one_value() -> None:
    """Gains of 2, 1.9 and -0.4 points at each of three batches: nine values would decide, three seeds do not."""
    seeds = [0.52, 0.519, 0.496]
    (later,) = (one for one in TABLE_1.findings(table(seeds)) if one.claim.key == "later")
    assert later.verdict == "not decided"
    assert interval([seed - 0.5 for seed in seeds] * 3).low > 0
    assert f"last {interval([seed - 0.5 for seed in seeds]).text(100)}" in later.ours


def bounds(scores: dict[str, list[float]]) -> Data:
    return {"scale": "cpu", "batch": 8, "clips": {clip: outcome(values) for clip, values in scores.items()}}


def test_figure_2_is_judged_by_the_seeds() -> None:
    def at(*means: float) -> Data:
        noise = (0.0, 0.001, -0.001)
        named = zip((*BOUNDS, NONE), means, strict=True)
        return bounds({clip: [m + n * (1 + m) for n in noise] for clip, m in named})

    assert verdicts(FIGURE_2.findings(at(0.9, 0.85, 0.8, 0.7, 0.6))) == ["holds"] * 4
    assert verdicts(FIGURE_2.findings(at(0.6, 0.7, 0.8, 0.9, 0.95))) == ["does not hold"] * 4
    assert verdicts(FIGURE_2.findings(at(0.7, 0.7, 0.7, 0.7, 0.7))) == ["not decided"] * 4


def test_adaptive_bounds_are_judged_against_the_fixed_one() -> None:
    scores = {"1": LOW, "running 1": UP, "running 2": [0.45, 0.455, 0.45], "tightening": DOWN, "falling": NOISE}
    found = ADAPTIVE_BOUNDS.findings(bounds(scores | {NONE: [0.4, 0.41, 0.4]}))
    assert verdicts(found) == ["holds", "holds", "not decided", "holds", "holds", "does not hold", "holds"]
    assert found[5].ours.startswith("running 2 less 1: -4.83") and found[6].ours.startswith(
        "running 2 less none: +4.83"
    )
    assert len({finding.claim.key for finding in found}) == 7
    scores |= {"tightening": UP, "running 1": DOWN, "running 2": DOWN, "falling": DOWN, NONE: [0.6, 0.61, 0.6]}
    assert verdicts(ADAPTIVE_BOUNDS.findings(bounds(scores))) == ["does not hold"] * 7


@pytest.mark.parametrize("recipe", [TABLE_1, FIGURE_2, ADAPTIVE_BOUNDS], ids=lambda recipe: str(recipe.name))
def test_data_hold_what_is_drawn_and_judged_and_no_ratios_beside(recipe: Recipe) -> None:
    records = Records()
    for request in asked(recipe, CPU):
        points = range(0, request["steps"] + 1, request["eval_every"])
        run = cast("Any", Series("lambc" in request["method"]))
        run.curve = [{"step": step, "test_score": 0.1 + request["seed"] / 1000} for step in points]
        records.add(request, run)
    data = recipe.measure(CPU, records)
    assert len(recipe.findings(data)) == len(recipe.claims)
    assert "of width 8 on 2000 images" in cast("Any", recipe.draw(data)).get_suptitle()
    outcomes = [
        (clip, one) for panel in data.get("panels", {"": data.get("clips")}).values() for clip, one in panel.items()
    ]
    for clip, one in outcomes:
        assert ("ratios" in one, "above" in one) == ((clip == NONE and recipe is not ADAPTIVE_BOUNDS),) * 2
        assert ("applied" in one) == (recipe is ADAPTIVE_BOUNDS)


def test_made_images_decide_nothing_and_real_ones_do() -> None:
    data = bounds({"1": UP, NONE: LOW}) | {"made": True}
    found = FIGURE_3.findings(data)
    assert verdicts(found) == ["not decided"] * 2 and "made" in found[0].ours
    assert verdicts(FIGURE_3.findings(data | {"made": False})) == ["holds"] * 2
    assert all("made_imagenet64" in request["task"] for request in asked(FIGURE_3, CPU))
    assert all("data='imagenet64'" in request["task"] for request in asked(FIGURE_3, PAPER))
    assert {request["batch_size"] for request in asked(FIGURE_3, PAPER)} == {400}


def test_made_images_go_through_imagenets_files() -> None:
    task = made_imagenet64(train=23, test=5)
    assert task.data.train_inputs.shape == (23, 3, 64, 64) and task.data.train_inputs.dtype == torch.uint8
    assert len(task.data.test_targets) == 5 and task.data.classes == 1000
    assert set(task.data.train_targets.tolist()) <= set(range(10))
    assert task.data.fingerprint() == made_imagenet64(train=23, test=5).data.fingerprint()
    assert task.data.fingerprint() != made_imagenet64(train=23, test=5, seed=1).data.fingerprint()


def test_pictures_have_the_papers_panels() -> None:
    pytest.importorskip("matplotlib")
    figure = TABLE_1.draw(table(UP))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["batch 8", "batch 16", "batch 24"]
    assert all(axes.get_yscale() == "log" for axes in figure.axes[3:6])
    two = FIGURE_2.draw(bounds(dict.fromkeys((*BOUNDS, NONE), UP)))
    assert len(two.axes) == 3 and len(two.axes[0].get_lines()) == 5
    five = ADAPTIVE_BOUNDS.draw(bounds(dict.fromkeys(COMPARED, UP)))
    assert len(five.axes) == 5
    for axes in (five.axes[0], *five.axes[2:]):
        assert len({line.get_color() for line in axes.get_lines()[: len(COMPARED)]}) == len(COMPARED) == 6
    three = FIGURE_3.draw(bounds({"1": UP, NONE: LOW}) | {"made": True})
    assert "width 16 on MADE" in cast("Any", three).get_suptitle()


def test_layers_are_judged_by_the_seeds() -> None:
    above = {"kernels": [0.0, 0.02, 0.01], "scales": [0.9, 0.95, 0.9], "shifts": [0.0] * 3}
    scores = {clip: {"scores": values} for clip, values in zip(layers.CLIPS, (UP, LOW, UP, LOW), strict=True)}
    tensors = [["kernels", 0.1, 0.2, 0.4], ["scales", 2.0, 3.0, 9.0], ["shifts", 0.01, 0.1, 1.0]]
    data = {"scale": "cpu", "batch": 8, "clips": scores, "tensors": tensors, "apart": [30.0] * 3, "above": above}
    assert verdicts(layers.LAYERS.findings(data)) == ["holds"] * 3
    scores["kernels 1"] = {"scores": DOWN}
    other = data | {"apart": [3.0] * 3, "above": above | {"kernels": [1.0] * 3}}
    assert verdicts(layers.LAYERS.findings(other)) == ["does not hold"] * 3
    pytest.importorskip("matplotlib")
    assert [axes.get_yscale() for axes in layers.LAYERS.draw(data).axes] == ["log", "linear"]


def test_ratios_of_kernels_only_are_the_librarys_default() -> None:
    assert (method("kernels none", 100), method("kernels 1", 100)) == ("lamb", "lambc:clip=1")
    found = layers.by_tensor(runs_of(Series(False))[0])
    assert found["norm.bias"] == [1.0, 0.1] and len(found) == 3
