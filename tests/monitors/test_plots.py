"""The pictures of a run show its figures: lines, marks, cells and names are read back from the axes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp
from layerpace.monitors import plots
from layerpace.monitors.history import History
from layerpace.monitors.plots import style
from layerpace.monitors.run import LayerInfo, Run, Series

from .made import START, altered, figures, layer_infos, made_run, records_of

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

pytestmark = pytest.mark.filterwarnings("error")

DRAWN: dict[str, Callable[..., Axes]] = {
    "curves": lambda run, ax=None: plots.curves(run, "rotation_angle", ax),
    "relative_updates": lambda run, ax=None: plots.relative_updates(run, ax=ax),
    "rotation_curves": plots.rotation_curves,
    "trust_ratios": plots.trust_ratios,
    "norms": lambda run, ax=None: plots.norms(run, "grad_norm", ax),
    "second_moments": lambda run, ax=None: plots.second_moments(run, ax=ax),
}


def given_axes() -> Axes:
    return Figure(figsize=(6, 4), layout="constrained").add_subplot()


def drawn_lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """(x, y) of the lines in data coordinates with more than one point: no marks, no guide at 1."""
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in axes.lines
        if line.get_transform() == axes.transData and line.get_linestyle() != "None" and len(line.get_xdata()) > 2
    ]


def marks(axes: Axes, height: float) -> set[float]:
    """Where triangles stand at the top (1) or at the bottom (0) edge."""
    return {
        float(x)
        for line in axes.lines
        if line.get_transform() == axes.get_xaxis_transform() and line.get_linestyle() == "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if y == height
    }


def inside(figure: Any) -> None:
    """Nothing sticks out of the picture."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.06 and box.y0 > -0.06 and box.x1 < width + 0.06 and box.y1 < height + 0.06


@pytest.mark.parametrize("count", [1, 200])
@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_makes_its_own_figure_or_draws_into_the_axes_given(name: str, count: int) -> None:
    run = made_run(count, 12)
    made = DRAWN[name](run)
    assert isinstance(made, Axes)
    inside(made.figure)
    ax = given_axes()
    assert DRAWN[name](run.history, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_pictures_leave_pyplot_alone() -> None:
    program = (
        "import sys; from made import made_run; from layerpace.monitors import plots; "
        "print('matplotlib' in sys.modules); "
        "plots.overview(made_run(5, 4)).canvas.draw(); "
        "print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "False"]


def test_a_missing_matplotlib_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = made_run(5, 4)
    for draw in (*DRAWN.values(), plots.overview, lambda run: plots.multipliers(0.5, nn.Linear(2, 2))):
        with pytest.raises(ImportError, match=r"^plots need matplotlib: pip .*, or in a clone pip .*'$"):
            draw(run)


def test_curves_are_the_figures_of_the_history() -> None:
    run = made_run(5, 12)
    lines = drawn_lines(plots.curves(run, "weight_norm"))
    assert len(lines) == 5
    for k, (x, y) in enumerate(lines):
        assert x == run.history.steps
        assert y == pytest.approx(run.history["weight_norm"][:, k].tolist())


def test_layers_go_from_dark_to_light_and_never_into_yellow() -> None:
    for count in (2, 5, 200):
        light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in map(to_rgba, style.layer_colours(count))]
        assert light == sorted(light)
        assert light[-1] < 0.82
    axes = plots.curves(made_run(5, 6), "grad_norm")
    assert [to_rgba(line.get_color()) for line in axes.lines if len(line.get_xdata()) == 6] == style.layer_colours(5)


def test_few_layers_are_named_and_many_have_a_bar() -> None:
    few = plots.norms(made_run(5, 6))
    assert [text.get_text() for text in few.get_legend().get_texts()] == style.short_names(
        [layer.name for layer in layer_infos(5)]
    )
    many = plots.norms(made_run(200, 6))
    assert many.get_legend() is None
    (bar,) = [axes for axes in many.figure.axes if axes is not many]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["input", "output"]
    assert bar.get_ylabel() == "200 layers (faint: vectors)"


def test_vectors_are_dashed_where_layers_are_named() -> None:
    axes = plots.norms(made_run(5, 6))
    lines = [line for line in axes.lines if len(line.get_xdata()) == 6]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--", "-"]
    assert [line.get_linestyle() for line in axes.get_legend().get_lines()] == ["-", "--", "-", "--", "-"]


def test_names_drop_what_all_share_and_keep_both_ends() -> None:
    assert style.short_names(["fc1.weight", "fc1.bias"]) == ["fc1", "fc1.bias"]
    assert style.short_names([]) == []
    long = ["transformer.encoder.blocks.0.attention.weight", "transformer.encoder.blocks.1.bias"]
    assert style.short_names(long) == ["0.attention", "1.bias"]
    (alone,) = style.short_names(["one_name_that_is_far_too_long_for_a_picture.tail"])
    assert len(alone) == style.LONGEST_NAME
    assert alone.startswith("one_name") and alone.endswith(".tail") and "…" in alone


def test_what_was_not_measured_is_a_gap() -> None:
    run = altered(made_run(5, 12), "grad_norm", 2, slice(4, 7), math.nan)
    x, y = drawn_lines(plots.norms(run, "grad_norm"))[2]
    steps = run.history.steps
    assert [at for at, value in zip(x, y, strict=True) if value == value] == steps[:4] + steps[7:]
    assert sum(value != value for value in y) == 1


def test_a_figure_between_two_gaps_is_a_dot() -> None:
    run = altered(made_run(5, 12), "grad_norm", 2, slice(4, 5), math.nan)
    run = altered(run, "grad_norm", 2, slice(6, 7), math.nan)
    dots = [line for line in plots.norms(run, "grad_norm").lines if line.get_marker() == "." and len(line.get_xdata())]
    assert [list(dot.get_xdata()) for dot in dots] == [[run.history.steps[5]]]


def test_optimizers_that_take_turns_leave_no_gaps() -> None:
    layers = layer_infos(4)
    history = History([layer.name for layer in layers])
    for k in range(20):
        row = torch.full((4,), math.nan)
        row[2 * (k % 2) : 2 * (k % 2) + 2] = 1.0 + k
        history.append(1 + k // 2, START + k, {"grad_norm": row, "trust_ratio": row, "cosine_distance": row / 30})
    run = Run("two optimizers", {}, layers, history)
    for _, y in drawn_lines(plots.curves(run, "grad_norm")):
        assert len(y) == 10
        assert not any(map(math.isnan, y))
    (mesh,) = plots.trust_ratios(run).collections
    cells = mesh.get_array()
    assert cells.shape == (4, 10)  # what optimizers did in the same step is one record
    assert not cells.mask.any()


def test_zeros_and_infinities_stand_at_the_edges() -> None:
    run = altered(made_run(5, 12), "update_norm", 1, slice(3, 6), 0.0)
    run = altered(run, "update_norm", 3, slice(9, 12), math.inf)
    run = altered(run, "update_norm", 4, slice(0, 12), 0.0)
    steps = run.history.steps
    axes = plots.norms(run, "update_norm")
    assert axes.get_yscale() == "log"
    assert marks(axes, 0.0) == {steps[3], steps[0]}
    assert marks(axes, 1.0) == {steps[9]}
    assert all(value > 0 or value != value for _, y in drawn_lines(axes) for value in y)
    inside(axes.figure)


def test_zeros_of_a_linear_axis_are_drawn_where_they_are() -> None:
    run = altered(made_run(5, 12), "cosine_distance", 0, slice(0, 1), 0.0)
    axes = plots.rotation_curves(run)
    assert drawn_lines(axes)[0][1][0] == 0.0
    assert not marks(axes, 0.0)
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1.05


def test_a_run_of_one_record_and_one_with_nothing_finite_are_drawn() -> None:
    inside(plots.overview(made_run(5, 1)))
    run = made_run(3, 4)
    for layer in range(3):
        for quantity in run.history.quantities:
            run = altered(run, quantity, layer, slice(0, 4), math.inf)
    for draw in DRAWN.values():
        inside(draw(run).figure)


def test_scalars_are_curves_too() -> None:
    run = made_run(5, 12)
    axes = plots.curves(run, "loss")
    (line,) = axes.lines
    assert list(line.get_ydata()) == pytest.approx(run.scalars["loss"].values)
    assert axes.get_ylabel() == "loss"
    empty = Run("r", {}, run.layers, run.history, {"loss": Series([], [])})
    with pytest.raises(ValueError, match="the scalar 'loss' of run 'r' is empty"):
        plots.curves(empty, "loss")


def test_bad_requests_say_what_there_is() -> None:
    run = made_run(5, 4)
    with pytest.raises(ValueError, match=r"no record has the quantity 'speed'; there is: relative_update_l1, "):
        plots.curves(run, "speed")
    with pytest.raises(ValueError, match=r"no record has the quantity 'grad_norm'; there is: nothing"):
        plots.norms(History(["a"]), "grad_norm")
    with pytest.raises(ValueError, match="quantity must be one of 'weight_norm', 'grad_norm', 'update_norm', got 'x'"):
        plots.norms(run, "x")
    with pytest.raises(ValueError, match="quantity must be one of"):
        plots.relative_updates(run, quantity="weight_norm")
    with pytest.raises(ValueError, match="steps must name one step or more"):
        plots.relative_updates(run, steps=[])
    with pytest.raises(TypeError, match="a plot is made of a Monitor, a Run or a History, got dict"):
        plots.rotation_curves({})
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.overview(Run("r", {}, run.layers, History(run.history.layers)))


def test_relative_updates_show_the_records_nearest_to_the_steps() -> None:
    run = made_run(6, 12)
    axes = plots.relative_updates(run, steps=[12, 0, 9999])  # recorded: 1, 11, ..., 111
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["1", "11", "111"]
    table = run.history["relative_update_l1"]
    filled = [line for line in axes.lines if line.get_linestyle() == "-"]
    hollow = [line for line in axes.lines if line.get_linestyle() == "None"]
    for number, record in enumerate((0, 1, 11)):
        assert list(filled[number].get_xdata()) == [0, 2, 4]  # the matrices
        assert list(filled[number].get_ydata()) == pytest.approx(table[record, 0::2].tolist())
        assert list(hollow[number].get_ydata()) == pytest.approx(table[record, 1::2].tolist())
        assert hollow[number].get_markerfacecolor() == "none"
    stopped = altered(
        altered(run, "relative_update_l1", 2, slice(0, 12), 0.0), "relative_update_l1", 3, slice(0, 9), 0.0
    )
    assert marks(plots.relative_updates(stopped), 0.0) == {2.0, 3.0}
    default = plots.relative_updates(run)
    assert [text.get_text() for text in default.get_legend().get_texts()] == ["1", "41", "71", "111"]


@pytest.mark.parametrize("count", [5, 200])
def test_names_along_an_axis_are_thinned_until_they_fit(count: int) -> None:
    axes = plots.trust_ratios(made_run(count, 12))
    axes.figure.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
    assert len(boxes) >= 3
    for below, above in pairwise(boxes):
        assert below.y1 <= above.y0
    ticks = plots.relative_updates(made_run(count, 12)).get_xticks()
    assert len(ticks) == min(count, len(ticks)) <= 30
    assert ticks[0] == 0


def test_cells_are_the_trust_ratios_of_the_layers_that_have_one() -> None:
    run = altered(made_run(6, 12), "trust_ratio", 4, slice(3, 5), math.nan)
    axes = plots.trust_ratios(run)
    mesh = axes.collections[0]
    expected = run.history["trust_ratio"][:, 0::2].T
    cells = mesh.get_array()
    assert cells.shape == (3, 12)
    assert cells.mask.tolist() == expected.isnan().tolist()
    assert torch.equal(torch.tensor(cells.filled(0)), expected.nan_to_num(0))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the input on top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["attn.qkv", "attn.out", "mlp.up"]


def hatched(axes: Axes, pattern: str) -> set[tuple[int, int]]:
    """(row, column) of the cells, at unit steps, whose middle is within a hatched region."""
    regions = [c for c in axes.collections if getattr(c, "hatches", None) == [pattern]]
    return {
        (row, column)
        for region in regions
        for path in region.get_paths()
        for row in range(3)
        for column in range(12)
        if path.contains_point((1 + 10 * column, row))
    }


def test_clipped_cells_are_hatched_by_their_direction() -> None:
    run = made_run(6, 12)
    for layer in (0, 2, 4):
        run = altered(run, "trust_ratio", layer, slice(0, 12), 0.5)
        run = altered(run, "trust_ratio_unclipped", layer, slice(0, 12), 0.5)
    run = altered(run, "trust_ratio_unclipped", 0, slice(2, 4), 0.9)
    run = altered(run, "trust_ratio_unclipped", 4, slice(4, 5), 0.1)
    run = altered(run, "trust_ratio", 2, slice(0, 1), math.inf)
    axes = plots.trust_ratios(run)
    assert hatched(axes, "////") == {(0, 2), (0, 3)}
    assert hatched(axes, "\\\\\\\\") == {(2, 4)}
    assert "/// down in 5.71%" in axes.get_xlabel()  # 2 of 35 finite cells
    plain = plots.trust_ratios(run, clipped=False)
    assert not hatched(plain, "////")
    assert plain.get_xlabel() == "step"


def test_zeros_and_infinities_have_colours_of_their_own() -> None:
    run = altered(made_run(6, 12), "trust_ratio", 0, slice(0, 1), 0.0)
    run = altered(run, "trust_ratio", 2, slice(0, 1), math.inf)
    mesh = plots.trust_ratios(run).collections[0]
    colours = mesh.to_rgba(mesh.get_array())
    assert tuple(colours[0, 0]) == to_rgba("black")
    assert tuple(colours[1, 0]) == to_rgba("#CC79A7")
    assert len({tuple(colours[row, column]) for row in range(3) for column in range(1, 12)} & {to_rgba("black")}) == 0


def test_bars_go_from_the_10th_percentile_to_the_90th() -> None:
    run = altered(made_run(5, 12), "second_moment_p10", 1, slice(0, 12), 0.0)
    axes = plots.second_moments(run, step=52)
    assert axes.get_title() == "Second moment at step 51"
    low, middle, high = (run.history[f"second_moment_p{p}"][5] for p in (10, 50, 90))
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    assert [bar.get_y() + bar.get_height() for bar in bars] == pytest.approx(high.tolist())
    assert [bars[k].get_y() for k in (0, 2, 3, 4)] == pytest.approx([float(low[k]) for k in (0, 2, 3, 4)])
    assert 0 < bars[1].get_y() < float(low[[0, 2, 3, 4]].min())
    (notches,) = axes.collections
    assert [float(segment[0, 1]) for segment in notches.get_segments()] == pytest.approx(middle.tolist())


def network(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))


@pytest.mark.parametrize("count", [2, 5, 200])
def test_multipliers_are_those_of_the_alphas(count: int) -> None:
    axes = plots.multipliers([-0.4, 0, 0.6], network(count))
    inside(axes.figure)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["-0.4", "0", "0.6"]
    for alpha, line in zip((-0.4, 0.0, 0.6), axes.lines, strict=True):
        assert list(line.get_ydata()) == [lp.layers.multiplier(k, count, alpha) for k in range(count)]
        assert line.get_linestyle() == ("--" if alpha < 0 else "-")
    (line,) = plots.multipliers(0.6, network(count)).lines
    assert line.get_ydata()[-1] == 1.0


def test_multipliers_of_param_groups() -> None:
    net = network(3)
    groups = lp.layers.prioritize(net, 0.3)
    expected = [lp.layers.multiplier(k, 3, 0.3) for k in range(3)]
    (line,) = plots.multipliers(groups, net).lines
    assert list(line.get_ydata()) == expected
    (line,) = plots.multipliers(lp.LAMB(groups).param_groups, net).lines
    assert list(line.get_ydata()) == expected
    with pytest.raises(ValueError, match="the groups hold no layer of this model"):
        plots.multipliers(groups, network(3))
    with pytest.raises(ValueError, match=r"alpha must be in \[-1, 1\], got 3"):
        plots.multipliers([0.1, 3], net)
    with pytest.raises(ValueError, match="one alpha or group at least"):
        plots.multipliers([], net)


def panels(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("count", [5, 200])
def test_the_overview_has_a_panel_for_all_that_was_recorded(count: int) -> None:
    figure = plots.overview(made_run(count, 6))
    inside(figure)
    side = figure.subfigs[1]
    key = [text.get_text() for legend in side.legends for text in legend.get_texts()]
    assert key == (style.short_names([layer.name for layer in layer_infos(5)]) if count == 5 else [])
    assert [axes.get_ylabel() for axes in side.axes] == ["200 layers (faint: vectors)"] * (count == 200)
    assert panels(figure) == [
        "loss",
        "test accuracy",
        "Relative update by layer",
        "Relative update",
        "Angle turned in a step",
        "Layer rotation",
        "Norm of the weights",
        "Norm of the gradient",
        "Norm of the update",
        "Silhouette of the feedback",
        "Learning rate",
        "Trust ratio",
        "Second moment at step 51",
    ]


def test_the_overview_leaves_out_what_was_not() -> None:
    whole = made_run(5, 12)
    history = History(whole.history.layers)
    for step, time, values in records_of(whole.history):
        row = {"weight_norm": values["weight_norm"], "trust_ratio": torch.full((5,), math.nan)}
        history.append(step, time, row)
    figure = Figure()
    assert plots.overview(Run("r", {}, whole.layers, history), figure) is figure
    assert panels(figure) == ["Norm of the weights"]


def test_names_are_no_formulas_and_records_of_one_step_may_differ() -> None:
    layers = [LayerInfo(name, (4, 4)) for name in ("$x^{$.weight", "two\nlines", "\x1b[31mred")]
    history = History([layer.name for layer in layers])
    for step in (1, 11, 21):
        values = figures(layers, step / 21)
        ratios = {name: values.pop(name) for name in ("trust_ratio", "trust_ratio_unclipped")}
        history.append(step, START + step, values)
        history.append(step, START + step, ratios)
    run = Run("$\\frac$", {}, layers, history, {"$loss_{": Series([1, 11], [2.0, 1.0])})
    figure = plots.overview(run)
    figure.draw_without_rendering()  # a name that is taken for a formula is an error here
    said = [text.get_text() for text in figure.findobj(Text)]
    assert r"\$\frac\$" in said and r"\$loss {" in said and "two?lines" in said
    assert not any(letter < " " for text in said for letter in text.replace("\n", ""))
