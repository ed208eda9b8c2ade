from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.hostile import controls
from torch import nn

from layerpace.engine.common.consoles import SafeConsole
from layerpace.lab import Task
from layerpace.lab.compare import compare
from layerpace.lab.compare_plan import Request
from layerpace.lab.curves import Curve, MethodRecords, average, pick
from layerpace.lab.plots import draw, rotation, scores, updates
from layerpace.lab.progress import LineReporter, LiveReporter, score_text
from layerpace.lab.report import show
from layerpace.monitors.history import History

from .conftest import Silent


def row(**options: Any) -> dict[str, Any]:
    made = {
        "label": "Adam",
        "lr": 0.001,
        "seeds": 3,
        "score_mean": 0.98765,
        "score_sd": 0.0123,
        "steps_to_target": [10, 20, 60],
        "steps_to_target_mean": 30.0,
        "diverged": [],
        "step_ms": 3.14159,
        "optimizer_ms": 0.5,
        "unevenness": 0.876,
        "tried": [{"lr": 0.001}],
    }
    return {**made, **options}


def shown(*rows: dict[str, Any], metric: str = "accuracy", width: int = 80) -> str:
    config = {"task": "digits", "steps": 200, "batch_size": 64, "seeds": 3, "choose": "score", "validation": 135}
    results = {"metric": metric, "target": 0.9, "config": config, "methods": rows, "plots": ["p.png"], "out": "runs/x"}
    out = io.StringIO()
    show(Console(file=out, width=width), results)
    return out.getvalue()


def line(text: str, label: str) -> list[str]:
    return next(found for found in text.splitlines() if label in found).split()


def test_figures_stand_in_the_table_as_measured() -> None:
    assert line(shown(row()), "Adam") == ["Adam", "0.001", "98.8%", "±", "1.2", "30", "3.14", "0.50", "0.88"]


def test_other_metrics_are_not_percentages() -> None:
    assert "-0.12" in shown(row(score_mean=-0.12, score_sd=None), metric="negative error")


def test_the_best_method_comes_first_and_the_diverged_last() -> None:
    lost = row(
        label="SGD", score_mean=None, score_sd=None, diverged=[[0, 7], [1, 5]], steps_to_target=[], unevenness=None
    )
    text = shown(lost, row(), row(label="LAMB", score_mean=0.99))
    assert text.index("LAMB") < text.index("Adam") < text.index("SGD")
    assert line(text, "SGD")[2:5] == ["diverged", ">", "200"]
    assert "at step 5" in text


def test_what_not_every_seed_did_is_said() -> None:
    text = shown(row(steps_to_target=[10, 20], steps_to_target_mean=15.0, diverged=[[2, 44]]))
    assert "15 (2 of 3)" in text
    assert "(1 of 3 diverged," in text


def test_a_best_rate_at_an_end_of_those_tried_is_noted() -> None:
    inside = row(tried=[{"lr": lr} for lr in (0.0001, 0.001, 0.01)])
    assert "at an end" not in shown(inside)
    assert "135 held-out training examples" in shown(inside)
    assert "Adam: the best lr 0.001 is at an end" in shown(row(tried=[{"lr": 0.001}, {"lr": 0.01}]))


def test_seven_methods_fit_80_columns() -> None:
    text = shown(*(row(label=label) for label in ("SGD", "Adam", "LARS", "LAMB", "LAMBC", "PercentDelta", "Layca")))
    assert "…" not in text
    assert line(text, "PercentDelta")[-1] == "0.88"


@pytest.mark.parametrize(
    ("score", "metric", "text"), [(0.91, "accuracy", "91.0%"), (None, "accuracy", "-"), (2.5, "r", "2.5")]
)
def test_scores_as_text(score: float | None, metric: str, text: str) -> None:
    assert score_text(score, metric) == text


def test_helpers_of_the_plots() -> None:
    assert average([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert pick(list(range(0, 100, 10)), 4) == [0, 30, 60, 90]
    assert pick([0, 5], 4) == [0, 5]
    assert Curve([0, 1], [0.0, 1.0], [0.0, 0.5], [0.0, 2.0], ended=False).smoothed(2).mean == [0.0, 0.5]


def seeds(*of_quantity: dict[str, list[list[float]]]) -> MethodRecords:
    """Runs of a method, of layers a and b; each by quantity its records, at steps 1, 10, 20, ..."""
    made = MethodRecords("LAMB", [])
    made.layers, made.histories = ["a", "b"], []
    for values in of_quantity:
        history = History(["a", "bias", "b"])
        for number in range(len(next(iter(values.values())))):
            rows = {name: torch.tensor(records[number]) for name, records in values.items()}
            history.append(max(1, 10 * number), 0.0, rows)
        made.histories.append(history)
    return made


INF, MISSING = float("inf"), float("nan")
UPDATES = [
    {"relative_update_l1": [[0.1, 5.0, 0.2], [INF, 5.0, MISSING]]},
    {"relative_update_l1": [[0.001, 5.0, 0.0], [0.25, 5.0, INF]]},
]


def test_layers_are_averaged_over_seeds_where_they_have_figures() -> None:
    table = seeds(*UPDATES).layer_figures("relative_update_l1", logarithmic=True)
    assert table == {"a": {1: pytest.approx(0.01), 10: pytest.approx(0.25)}, "b": {1: pytest.approx(0.2)}}
    table = seeds(*UPDATES).layer_figures("relative_update_l1", logarithmic=False)
    assert table == {"a": {1: pytest.approx(0.0505), 10: pytest.approx(0.25)}, "b": {1: pytest.approx(0.1)}}


def test_the_pictures_of_layers_show_their_records() -> None:
    turned = seeds({"cosine_distance": [[0.0, 1.0, 0.125], [0.25, 1.0, 0.5]]})
    lines = [line.get_xydata().tolist() for line in rotation([turned], "t").axes[0].lines]  # type: ignore[union-attr]
    assert lines == [[[1, 0], [10, 0.25]], [[1, 0.125], [10, 0.5]]]
    axes = updates([seeds(*UPDATES)], "t").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]
    assert axes.lines[0].get_ydata() == pytest.approx([0.01, 0.2])


@pytest.mark.filterwarnings("error")
def test_plots_take_many_methods_and_many_layers(task: Task, silent: Silent) -> None:
    def deep() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(16, 8)]
        for _ in range(48):
            layers += [nn.Tanh(), nn.Linear(8, 8)]
        return nn.Sequential(*layers, nn.Linear(8, 2))

    methods = [
        "sgd:lr=1e30",
        "sgd:momentum=0.1",
        "sgd:momentum=0.2,wd=0.0001",
        "adam",
        "adamw",
        "lars",
        "lamb",
        "lambc",
    ]
    methods += ["percent-delta", "layca", "radam+trust_ratio:clip=1", "adagrad"]
    request = Request(methods=tuple(methods), seeds=1, steps=2, eval_every=1, out=Path("out"))
    results = compare(request, replace(task, model=deep), silent, draw=draw)
    assert results["methods"][0]["diverged"]
    assert [Path(plot).name for plot in results["plots"]] == ["scores.png", "updates.png", "rotation.png"]


def test_the_legend_stays_inside_the_picture(task: Task, silent: Silent) -> None:
    class Named:
        diverged = (False,)

        def __init__(self, title: str) -> None:
            self.title = title

        def curve(self) -> Curve:
            return Curve([0, 1], [0.1, 0.9], [0.1, 0.8], [0.1, 0.95], ended=False)

    labels = ["Adam", "radam+trust_ratio (clip=1,eps=1e-06)", "PercentDelta (momentum=0)"]
    for count in (1, 7, 12):
        figure = scores([Named(labels[i % 3]) for i in range(count)], "accuracy", 0.5, "t")  # type: ignore[misc]
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, whole = legend.get_window_extent(), figure.bbox
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0


@pytest.mark.parametrize("live", [True, False])
def test_progress_shows_every_method_and_score(task: Task, live: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=live, width=100)
    with (LiveReporter if live else LineReporter)(console) as reporter:
        results = compare(Request(methods=("adam", "layca"), seeds=2, out=Path("out")), task, reporter)
    for made in results["methods"]:
        assert made["label"] in out.getvalue()
        assert score_text(made["scores"][-1], "accuracy") in out.getvalue()
    if not live:
        assert out.getvalue().count("\n") == 1 + 4


def test_names_are_shown_and_neither_obeyed_nor_read_as_markup() -> None:
    label = "[/] [bold]a\x1b[31mb\nc"
    config = {"task": label, "steps": 200, "batch_size": 64, "seeds": 1, "choose": "score", "validation": 135}
    tried = [{"lr": 0.001}, {"lr": 0.01}]
    made = {"metric": "accuracy", "target": None, "config": config, "methods": [row(label=label, tried=tried)]}
    out = io.StringIO()
    show(SafeConsole(file=out, width=100), {**made, "plots": [label], "out": label})
    assert not controls(out.getvalue())
    assert sum("[/] [bold]a?[31mb?c" in line for line in out.getvalue().splitlines()) == 5
