"""The report: what it says, that it keeps what matters, and how it behaves in a browser."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layerpace import cli
from layerpace.monitors.history import History
from layerpace.monitors.report import write_report
from layerpace.monitors.report.charts import CHARTS, charts_of, ends, in_words
from layerpace.monitors.report.page import distinct, groups, make_page
from layerpace.monitors.report.payload import payload
from layerpace.monitors.report.report_command import report
from layerpace.monitors.report.thin import breaks, keep
from layerpace.monitors.run import LayerInfo, Run, Series

from .browser import Opened, chromium, needs_browser, opened
from .made import made_run

LEFT, RIGHT = 52, 12  # CSS pixels beside the axes of a line chart
EVIL = "</script><b id=evil>x"


def level_run(name: str = "levels", factor: float = 1.0, records: int = 101) -> Run:
    """Four layers whose curves lie a factor of ten apart, each value like no other; a record every ten steps."""
    layers = ["conv1.weight", "conv2.weight", "fc.weight", "fc.bias"]
    history = History(layers)
    scale = torch.tensor([1e-1, 1e-2, 1e-3, 1e-4], dtype=torch.float64) * factor
    for k in range(records):
        values = scale * (1 + 0.001 * k)
        history.append(1 + 10 * k, 1.7e9 + k, {"relative_update_l1": values, "weight_norm": 50 * values})
    infos = [LayerInfo(layer, (4, 4)) for layer in layers]
    loss = Series([1 + 10 * k for k in range(records)], [2 - 0.01 * k for k in range(records)])
    return Run(name, {"optimizer": "LAMB", "lr": 0.1 * factor}, infos, history, {"loss": loss}, finished=True)


def rebuilt(run: Run, name: str | None = None, layers: dict[str, str] | None = None, **changed: Tensor) -> Run:
    """The run with another name, other names for some layers, other values for some quantities."""
    names = [(layers or {}).get(layer.name, layer.name) for layer in run.layers]
    values = {quantity: run.history[quantity] for quantity in run.history.quantities} | changed
    history = History(names)
    for k, (step, time) in enumerate(zip(run.history.steps, run.history.times, strict=True)):
        history.append(step, time, {quantity: x[k] for quantity, x in values.items()})
    infos = [LayerInfo(new, layer.shape, layer.excluded) for new, layer in zip(names, run.layers, strict=True)]
    return Run(name or run.name, run.settings, infos, history, run.scalars, finished=True)


def altered(run: Run, quantity: str, layer: int, records: slice, value: float) -> Run:
    """The run with one figure of a layer replaced in some records."""
    values = run.history[quantity].clone()
    values[records, layer] = value
    return rebuilt(run, **{quantity: values})


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- thinning


def test_every_interval_keeps_its_extremes() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, 3, generator=generator)
    kept = keep(values, 100)
    assert int(kept.sum(0).max()) <= 102
    for layer in range(3):
        for begin in range(0, 1000, 20):
            part, chosen = values[begin : begin + 20, layer], kept[begin : begin + 20, layer]
            assert chosen[part.argmax()] and chosen[part.argmin()]
    assert bool(kept[0].all()) and bool(kept[-1].all())


def test_a_short_curve_is_kept_whole() -> None:
    assert bool(keep(torch.arange(12.0).view(6, 2), 6).all())


def test_one_value_that_is_not_finite_is_kept_beside_the_extremes() -> None:
    values = torch.arange(1000.0).unsqueeze(1)
    values[503] = torch.inf
    kept = keep(values, 50).squeeze(1)
    size = 40
    part = slice(480, 480 + size)
    assert kept[503] and kept[480] and kept[519]
    assert int(kept[part].sum()) == 3


def test_a_gap_keeps_one_nan() -> None:
    values = torch.ones(1000, 2)
    values[300:420, 0] = torch.nan
    kept = keep(values, 50)
    assert int((kept & values.isnan()).sum()) >= 1
    between = kept[300:420, 0]
    assert bool(between.any())
    assert int(breaks(values).sum()) == 1


@pytest.mark.parametrize("offset", [0, 1])
def test_a_curve_measured_at_every_second_record_has_no_gap(offset: int) -> None:
    values = torch.full((100, 1), torch.nan)
    values[offset::2] = 1.0
    assert not bool(breaks(values).any())
    values[40:50] = torch.nan
    assert int(breaks(values).sum()) == 1


def unpacked(packed: dict[str, Any]) -> list[list[tuple[float, float]]]:
    """(step, value) of each curve, with the struct module."""

    def read(key: str, form: str) -> tuple[Any, ...]:
        raw = base64.b64decode(packed[key])
        return struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw)

    steps, places, values = read("steps", "d"), read("places", "i" if packed["wide"] else "H"), read("values", "f")
    made, begin = [], 0
    for count in read("counts", "i"):
        made.append([(steps[p], v) for p, v in zip(places[begin : begin + count], values[begin:], strict=False)])
        begin += count
    assert begin == len(places) == len(values)
    return made


def test_the_page_holds_the_values_of_the_records() -> None:
    run = altered(made_run(5, 90), "grad_norm", 2, slice(50, 60), math.nan)
    text, points = payload([run], ["run"], [0], charts_of([run]))
    assert points == 600
    packed = json.loads(text)["runs"][0]["quantities"]["grad_norm"]
    for layer, curve in zip(run.history.layers, unpacked(packed), strict=True):
        steps, values = run.history.series("grad_norm", layer)
        shown = [(step, value) for step, value in curve if not math.isnan(value)]
        assert shown == list(zip(steps, values, strict=True))
        assert sum(math.isnan(value) for _, value in curve) == (layer == run.history.layers[2])


def test_pages_that_grow_too_large_keep_fewer_points() -> None:
    runs = [made_run(8, 500), made_run(8, 500)]
    charts = charts_of(runs)
    full, most = payload(runs, ["a", "b"], [0, 1], charts)
    text, points = payload(runs, ["a", "b"], [0, 1], charts, budget=len(full) // 3)
    assert len(text) <= len(full) // 3 and points < most
    with pytest.raises(ValueError, match="2 runs of 8 layers do not fit"):
        payload(runs, ["a", "b"], [0, 1], charts, budget=1000)


def test_size_of_the_largest_page_that_is_promised(tmp_path: Path) -> None:
    path = write_report([made_run(50, 1000)], tmp_path / "report.html")
    assert path.stat().st_size < 8e6
    assert "keeps fewer" not in path.read_text()


# --- words and tables


def test_words_are_from_all_records() -> None:
    run = altered(level_run(), "relative_update_l1", 1, slice(30, 31), math.inf)
    said = in_words(CHARTS[0], run)
    assert "Steps 1 to 1001, 101 records." in said
    assert "At the end 1.10e-4 (fc.bias) to 0.11 (conv1.weight)" in said
    assert "highest is 1000 times the lowest" in said
    assert "Not finite in 1 layer, first at step 301." in said
    assert in_words(CHARTS[1], run) == "Not measured."


def test_ends_leave_out_what_was_not_measured() -> None:
    values = torch.tensor(
        [[math.nan, math.nan], [2.0, math.nan], [math.inf, math.nan], [5.0, math.nan], [math.nan] * 2]
    )
    found: dict[str, Tensor] = ends(values)
    assert {name: float(x[0]) for name, x in found.items()} == {"first": 2, "last": 5, "least": 2, "largest": math.inf}
    assert all(math.isnan(float(x[1])) for x in found.values())


def test_clipping_is_told() -> None:
    run = made_run(8, 20)
    assert re.search(r"Clipped in \d+% of all values, most in", in_words(CHARTS[3], run))


def test_a_rate_that_a_schedule_changes_is_shown_as_a_range() -> None:
    groups = [{"lr": 1e-4}, {"lr": 0.5, "lr_multiplier": 2.0}, {"lr": 0.25}, {"lr": "a tensor"}]
    optimizer = {"class": "SGD", "groups": groups}
    history = History(["warmed", "multiplied", "level"])
    for step in range(1, 6):
        rates = torch.tensor([1e-4 * step**2, 1.0 / step, 0.25])
        history.append(step, float(step), {"learning_rate": rates, "grad_norm": torch.ones(3)})
    layers = [LayerInfo(name, (2, 2)) for name in history.layers]
    text = make_page([Run("one", {"optimizers": [optimizer]}, layers, history)])
    for place, shown in enumerate(("0.0001 to 0.0025", "0.1 to 0.5", "0.25", "a tensor"), 1):
        assert f"optimizers.groups.{place}.lr</dt><dd>{shown}</dd>" in text


def test_settings_that_differ_come_first() -> None:
    text = make_page([level_run("one"), level_run("ten", 10)])
    differ, rest = text.split("Settings that all runs share")
    assert '<th scope="col">lr</th>' in differ and "<td>1.0</td>" in differ
    assert "<dt>optimizer</dt>" in rest and "<dt>optimizer</dt>" not in differ


def test_names_are_told_apart_and_seeds_belong_together() -> None:
    assert distinct(["a", "b", "a"]) == ["a", "b", "a (2)"]
    assert groups(["sgd-s0-7fff5760", "sgd-s1-7fff5761", "adam seed 0", "adam seed 1"]) == [0, 0, 1, 1]


RESULTS = {
    "metric": "accuracy", "target": 0.9,
    "config": {"kind": "layerpace compare", "task": "digits", "steps": 200, "seeds": 2},
    "methods": [
        {"label": "SGD", "lr": 0.01, "seeds": 2, "score_mean": 0.9, "score_sd": 0.01, "diverged": [],
         "steps_to_target": [90], "steps_to_target_mean": 90.0, "step_ms": 1.5, "optimizer_ms": 0.2, "unevenness": 0.6,
         "folders": ["sgd-s0-00000000", "sgd-s1-00000000"]},
        {"label": "Bad", "lr": 9.0, "seeds": 2, "score_mean": None, "score_sd": None, "diverged": [[0, 7], [1, 8]],
         "steps_to_target": [], "steps_to_target_mean": None, "step_ms": 1.4, "optimizer_ms": 0.2, "unevenness": None,
         "folders": []},
        {"label": "LAMB", "lr": 0.02, "seeds": 2, "score_mean": 0.97, "score_sd": 0.002, "diverged": [],
         "steps_to_target": [40, 50], "steps_to_target_mean": 45.0, "step_ms": 1.7, "optimizer_ms": 0.3,
         "unevenness": 0.1, "folders": []},
    ],
}  # fmt: skip


def test_results_of_a_comparison_best_first() -> None:
    text = make_page([level_run()], results=RESULTS)
    table = re.sub(r"<[^>]+>", " ", text[text.index("best score first") : text.index("Unevenness:")])
    rows = " ".join(table.split())
    assert rows.index("LAMB") < rows.index("SGD") < rows.index("Bad")
    assert "LAMB 0.02 97.0% ± 0.2% 45" in rows
    assert "SGD 0.01 90.0% ± 1.0% 90 (1 of 2)" in rows
    assert "Bad 9 diverged &gt; 200" in rows


def test_scalars_have_their_last_and_best_value() -> None:
    run = level_run()
    run = Run(run.name, {}, run.layers, run.history, {"loss": Series([1, 2, 3], [3.0, 1.25, 2.5])})
    text = make_page([run])
    row = re.search(r'<th scope="row">levels</th>(.*?)</tr>', text)
    assert row and re.findall(r">([^<]+)</td>", row[1]) == ["2.5", "1.25"]


def test_a_page_without_records_or_scalars_is_still_a_page() -> None:
    history = History(["w"])
    text = make_page([Run("empty", {}, [LayerInfo("w", (2,))], history)])
    assert "No scalars were logged" in text


def test_no_name_becomes_markup(tmp_path: Path) -> None:
    run = rebuilt(level_run(), EVIL, {"fc.weight": EVIL})
    text = make_page([run, level_run()], title=EVIL)
    assert "<b id=evil>" not in text


def test_bad_requests_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], path)
    assert path.read_text() == "old"
    write_report([level_run()], path)
    assert path.read_text().startswith("<!doctype html>") and [p.name for p in tmp_path.iterdir()] == ["report.html"]


# --- the command


def folder_of(path: Path, name: str, records: int = 3) -> Path:
    """A run folder as it is on disk."""
    path.mkdir(parents=True)
    layers = [{"name": "w", "shape": [2], "excluded": False, "trained": True}]
    head = {"kind": "layerpace run", "version": 1, "name": name, "settings": {}, "layers": layers, "started": 1.7e9}
    (path / "run.json").write_text(json.dumps(head))
    lines = [{"set": 0, "keys": ["relative_update_l1/w", "loss"]}]
    lines += [{"set": 0, "step": k + 1, "time": 1.7e9 + k, "values": [0.01, 1.0 / (k + 1)]} for k in range(records)]
    if records:
        (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        cli.dispatch(["report", *arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def test_the_command_prints_path_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder_of(tmp_path / "run", "demo")
    status, out, err = command(capsys, str(run))
    assert (status, err) == (0, "") and re.fullmatch(rf"{run}/report\.html \(0\.\d MB\)\n", out)
    assert "<title>demo" in (run / "report.html").read_text()


def test_several_folders_make_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [folder_of(tmp_path / name, name) for name in ("a", "b")]
    status, out, _ = command(capsys, *map(str, folders))
    assert status == 0 and out.startswith("report.html ")
    assert "2 runs: a, b" in (tmp_path / "report.html").read_text()


def test_a_comparison_has_its_table_and_labels(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder_of(tmp_path / f"runs/sgd-s{seed}-00000000", f"sgd-s{seed}")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    text = report([tmp_path]).read_text()
    assert "digits: 3 methods compared" in text and "SGD seed 1" in text and "97.0% ± 0.2%" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs the folder of a run"),
        (("nowhere",), "nowhere does not exist"),
        (("empty",), "no records yet in empty"),
        (("full", "--out", "none/x.html"), "there is no folder none"),
        (("full", "--out", "empty"), "--out empty is a folder"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "empty", "empty", records=0)
    folder_of(tmp_path / "full", "full")
    status, out, err = command(capsys, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and message in err


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    evil = rebuilt(level_run(), EVIL, {"fc.weight": EVIL})
    broken = altered(made_run(12, 60), "grad_norm", 4, slice(40, 60), math.inf)
    runs = {
        "one": [level_run()],
        "two": [level_run("slow"), level_run("fast", 3.0)],
        "evil": [evil, level_run(EVIL)],
        "broken": [broken],
        "many": [made_run(70, 120, name="a_run_with_one_very_long_name_" * 4)],
    }
    return {name: write_report(some, folder / f"{name}.html") for name, some in runs.items()}


@pytest.fixture
def one(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    with opened(browser, pages["one"]) as made:
        yield made


def plot(made: Opened, quantity: str = "relative_update_l1", place: int = 0) -> Any:
    return made.page.locator(f'.chart[data-quantity="{quantity}"] .plot').nth(place)


def hover(made: Opened, at: Any, x: float, y: float) -> list[str]:
    """The lines of the tip with the mouse at a place of a drawing, as shares of its axes' width and its height."""
    at.scroll_into_view_if_needed()
    box = at.bounding_box()
    made.page.mouse.move(box["x"] + LEFT + x * (box["width"] - LEFT - RIGHT), box["y"] + y * box["height"])
    return made.said("#tip").split("\n") if made.page.is_visible("#tip") else [""]


def drag(made: Opened, at: Any, begin: float, end: float) -> None:
    box = at.bounding_box()
    x = [box["x"] + LEFT + share * (box["width"] - LEFT - RIGHT) for share in (begin, end)]
    y = box["y"] + box["height"] / 2
    made.page.mouse.move(x[0], y)
    made.page.mouse.down()
    made.page.mouse.move((x[0] + x[1]) / 2, y)
    made.page.mouse.move(x[1], y)
    made.page.mouse.up()


def step_of(tip: list[str]) -> int:
    return next(int(line.removeprefix("step ")) for line in tip if line.startswith("step "))


def value_of(tip: list[str]) -> float:
    return float(tip[-1].rpartition(" ")[2])


@needs_browser
@pytest.mark.parametrize("name", ["one", "two", "evil", "broken", "many"])
def test_pages_open_without_errors_or_requests(browser: Any, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as made:
        assert made.errors == []
        assert made.requests == [pages[name].resolve().as_uri()]
        blank = made.page.evaluate(
            """() => [...document.querySelectorAll('.plot canvas')].filter((canvas) => {
                const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                return new Set(new Uint32Array(data.buffer)).size < 3;
            }).length"""
        )
        assert blank == 0 and made.page.locator(".plot").count() >= 3


@needs_browser
def test_the_page_may_reach_no_network(one: Opened) -> None:
    reached = one.page.evaluate("() => fetch('https://example.org/').then(() => true, () => false)")
    assert reached is False and any("Content Security Policy" in error for error in one.errors)


@needs_browser
def test_names_are_shown_as_they_are(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["evil"]) as made:
        assert made.page.locator("#evil").count() == 0
        made.page.locator("summary", has_text="Table of values").first.click()
        assert EVIL in made.said(".values table") and EVIL in made.said("h1")


@needs_browser
def test_pointing_reads_layer_step_and_value(one: Opened) -> None:
    run = level_run()
    for layer, height in enumerate((0.06, 0.3, 0.57, 0.85)):
        steps, values = run.history.series("relative_update_l1", run.history.layers[layer])
        for share in (0.0, 0.25, 0.5, 1.0):
            tip = hover(one, plot(one), share, height)
            assert tip[0] == run.history.layers[layer]
            assert step_of(tip) == pytest.approx(1 + 1000 * share, abs=10)
            assert value_of(tip) == pytest.approx(values[steps.index(step_of(tip))], rel=6e-4)


@needs_browser
def test_dragging_zooms_all_charts_and_a_double_click_shows_everything(one: Opened) -> None:
    first, other = plot(one), plot(one, "weight_norm")
    hover(one, first, 0.5, 0.5)
    drag(one, first, 0.2, 0.4)
    assert step_of(hover(one, other, 0.0, 0.3)) == pytest.approx(201, abs=10)
    assert step_of(hover(one, other, 1.0, 0.3)) == pytest.approx(401, abs=10)
    other.dblclick(position={"x": 300, "y": 200})
    assert step_of(hover(one, first, 1.0, 0.3)) == 1001
    assert one.errors == []


@needs_browser
def test_the_wheel_zooms_with_ctrl_alone(one: Opened) -> None:
    at = plot(one)
    hover(one, at, 0.5, 0.5)
    one.page.mouse.wheel(0, -100)
    assert step_of(hover(one, at, 1.0, 0.3)) == 1001
    hover(one, at, 0.5, 0.5)
    one.page.keyboard.down("Control")
    for _ in range(5):
        one.page.mouse.wheel(0, -100)
    one.page.keyboard.up("Control")
    one.page.wait_for_selector('html[data-zoomed="yes"]', state="attached")
    one.page.wait_for_timeout(50)
    assert 501 < step_of(hover(one, at, 1.0, 0.3)) < 800


@needs_browser
def test_the_filter_leaves_the_layers_that_match(one: Opened) -> None:
    for text, count, top in (
        ("fc", "2 of 4 layers", "fc.weight"),
        ("*.bias, conv2", "2 of 4 layers", "conv2.weight"),
        ("FC.WEIGHT", "1 of 4 layers", "fc.weight"),
        ("nothing", "0 of 4 layers", ""),
        ("", "", "conv1.weight"),
    ):
        one.page.fill("#filter", text)
        assert one.page.text_content(".count") == count
        one.page.wait_for_timeout(50)
        assert hover(one, plot(one), 0.5, 0.05)[0] == top


@needs_browser
def test_a_click_pins_a_layer_in_all_charts(one: Opened) -> None:
    hover(one, plot(one), 0.5, 0.06)
    one.page.mouse.down()
    one.page.mouse.up()
    assert one.said(".pins").split(" ")[0] == "conv1.weight"
    pressed = one.page.locator('.legend button[aria-pressed="true"]').all_inner_texts()
    assert pressed == ["conv1.weight"] * 2
    one.page.click(".pin")
    assert one.page.locator(".pin").count() == 0


@needs_browser
def test_the_keyboard_reads_every_value(one: Opened) -> None:
    run = level_run()
    plot(one).focus()

    def read(key: str) -> tuple[str, int, float]:
        one.page.keyboard.press(key)
        name, step, value = one.said("#spoken").split(", ")
        return name, int(step.removeprefix("step ")), float(value.rpartition(" ")[2])

    def told(layer: int, step: int) -> tuple[str, int, Any]:
        value = float(run.history["relative_update_l1"][(step - 1) // 10, layer])
        return run.history.layers[layer], step, pytest.approx(value, rel=6e-4)

    assert read("Home") == told(0, 1)
    assert read("ArrowRight") == told(0, 11)
    assert read("Shift+ArrowRight") == told(0, 111)
    assert read("ArrowDown") == told(1, 111)
    assert read("End") == told(1, 1001)
    assert read("ArrowRight") == told(1, 1001)
    assert read("ArrowUp") == told(0, 1001)
    assert read("ArrowLeft") == told(0, 991)
    one.page.keyboard.press("Enter")
    assert one.said("#spoken") == "conv1.weight pinned" and one.page.locator(".pin").count() == 1
    one.page.keyboard.press("+")
    one.page.wait_for_selector('html[data-zoomed="yes"]', state="attached")
    one.page.keyboard.press("0")
    one.page.wait_for_selector('html[data-zoomed="no"]', state="attached")
    one.page.keyboard.press("Escape")
    assert one.page.locator(".pin").count() == 0


@needs_browser
def test_everything_can_be_reached_by_tab(one: Opened) -> None:
    one.page.locator("h1").click()
    reached = set()
    for _ in range(60):
        one.page.keyboard.press("Tab")
        reached.add(one.page.evaluate("() => document.activeElement.className || document.activeElement.id"))
    assert {"skip", "plot", "filter", "smooth", "reset", "key"} <= reached


@needs_browser
def test_runs_stand_side_by_side_or_in_one_chart(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["two"]) as made:
        chart = made.page.locator('.chart[data-quantity="relative_update_l1"]')
        assert chart.locator("h4").all_inner_texts() == ["slow", "fast"]
        spots = []
        for place, name in enumerate(("slow", "fast")):
            assert hover(made, plot(made, place=place), 0.5, 0.06)[:2] == ["conv1.weight", name]
            spots.append(float(made.page.get_attribute(".spot", "cy")))
        assert spots[0] > spots[1] + 10  # one scale: the layer of the faster run lies higher
        made.page.select_option("#view", "over")
        made.page.select_option("#layer", "2")
        made.page.wait_for_timeout(50)
        assert chart.locator(".plot").count() == 1 and chart.locator("h4").all_inner_texts() == ["fc.weight"]
        high, low = hover(made, plot(made), 0.5, 0.1), hover(made, plot(made), 0.5, 0.8)
        assert high[:2] == ["fc.weight", "fast"] and low[:2] == ["fc.weight", "slow"]
        assert value_of(high) == pytest.approx(3 * value_of(low), rel=1e-3)
        made.page.select_option("#view", "one")
        made.page.select_option("#run", "1")
        made.page.wait_for_timeout(50)
        assert hover(made, plot(made), 0.5, 0.06)[:2] == ["conv1.weight", "fast"]
        assert made.errors == []


@needs_browser
def test_a_finding_shows_its_layers(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["broken"]) as made:
        name = made_run(12, 2).history.layers[4]
        finding = made.page.locator(".finding", has_text="finite").first
        assert name in finding.inner_text()
        finding.locator("button.show").click()
        assert name in made.said(".pins") and made.errors == []
        assert "Not finite in 1 layer, first at step 401." in made.said('.chart[data-quantity="grad_norm"] .words')


@needs_browser
def test_tables_sort_and_hold_the_final_values(one: Opened) -> None:
    chart = one.page.locator('.chart[data-quantity="relative_update_l1"]')
    chart.locator("summary", has_text="Table of values").click()
    last = chart.locator("thead button", has_text="last")
    last.click()
    rows = chart.locator("tbody th")
    assert rows.all_inner_texts() == list(level_run().history.layers)
    last.click()
    assert rows.all_inner_texts() == list(level_run().history.layers)[::-1]
    assert chart.locator("tbody tr").first.locator("td").all_inner_texts() == ["1e-4", "1e-4", "1.1e-4", "1.1e-4"]


@needs_browser
@pytest.mark.parametrize("name", ["two", "evil", "many"])
def test_a_phone_shows_no_wider_page(browser: Any, pages: dict[str, Path], name: str) -> None:
    phone = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with opened(browser, pages[name], 360, 740, **phone) as made:
        assert made.page.evaluate("() => document.documentElement.scrollWidth") <= 360
        at = plot(made)
        at.scroll_into_view_if_needed()
        at.tap(position={"x": 150, "y": 60})
        assert re.search(r"^step \d+$", made.said("#tip"), re.MULTILINE)
        box = made.page.locator("#tip").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


@needs_browser
def test_print_has_all_charts_in_light_colours(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    with opened(browser, pages["many"], color_scheme="dark") as made:
        corner = "() => [...document.querySelector('.plot canvas').getContext('2d').getImageData(1, 1, 1, 1).data]"
        assert max(made.page.evaluate(corner)[:3]) < 60
        made.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert made.page.evaluate(corner) == [255] * 4
        widths = made.page.evaluate("() => [...document.querySelectorAll('.plot canvas')].map((c) => c.width)")
        assert min(widths) >= 1200  # three times what is printed
        made.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        made.page.pdf(path=tmp_path / "report.pdf", format="A4")
        content = (tmp_path / "report.pdf").read_bytes()
        streams = re.findall(rb"/FlateDecode.*?stream\r?\n(.*?)endstream", content, re.DOTALL)
        drawn = b"".join(zlib.decompressobj().decompress(stream) for stream in streams)
        assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) >= 2
        assert len(re.findall(rb"[\d.]+ l\n", drawn)) > 5000  # the lines are vectors


def contrast(a: list[int], b: list[int]) -> float:
    """Of two colours as WCAG counts it, 1 to 21."""

    def light(rgb: list[int]) -> float:
        parts = [x / 255 for x in rgb]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    """4.5 for text, 3 for lines (WCAG AA); layers from dark to light."""
    with opened(browser, pages["two"], color_scheme=scheme) as made:

        def colours(selector: str, style: str) -> list[list[int]]:
            found = made.page.evaluate(
                """([selector, style]) =>
                [...document.querySelectorAll(selector)].map((e) => getComputedStyle(e)[style])""",
                [selector, style],
            )
            return [[int(x) for x in re.findall(r"\d+", colour)[:3]] for colour in found]

        card, paper = colours(".chart", "backgroundColor")[0], colours("body", "backgroundColor")[0]
        texts = colours(".chart p, .chart small, .legend button, summary, th, td", "color")
        lines = colours(".swatch line", "stroke")
        assert len(texts) > 20 and len(lines) > 8
        assert min(contrast(text, back) for text in texts for back in (card, paper)) >= 4.5
        assert min(contrast(line, card) for line in lines) >= 3
        layers = colours('.chart[data-quantity="weight_norm"] .swatch line', "stroke")
        assert [contrast(x, [0, 0, 0]) for x in layers] == sorted(contrast(x, [0, 0, 0]) for x in layers)
