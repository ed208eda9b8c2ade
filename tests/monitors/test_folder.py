"""The folder of a run: what is written is read back, however the run ended and while it grows."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from layerpace.engine.common.files import FileError
from layerpace.monitors.folder import Follower, MonitorFolder, find, load
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.replay import Replay
from layerpace.monitors.run import LayerInfo, Run
from layerpace.monitors.sinks import JSONL

from .made import layer_infos

LAYERS = [LayerInfo("a.weight", (3, 2)), LayerInfo("a.bias", (3,), excluded=True), LayerInfo("b", (4,), trained=False)]
SETTINGS = {
    "optimizer": "LARS",
    "options": {"lr": 0.1, "betas": (0.9, 0.99), "eps": math.inf},
    "device": torch.device("cpu"),
}


def record(folder: MonitorFolder, first: int, last: int) -> None:
    """Two quantities of two of the layers at each step; a third, and a loss, at every third step."""
    for step in range(first, last + 1):
        keys = [f"{quantity}/{layer}" for quantity in ("weight_norm", "grad_norm") for layer in ("a.bias", "a.weight")]
        values = [step, math.nan, 1 / step, math.inf]
        if step % 3 == 0:
            keys, values = [*keys, "cosine_distance/a.bias"], [*values, step / 100]
            folder.records.log({"loss": 1 / step, "accuracy": math.nan}, step, 1e9 + step)
        folder.records.log_many(keys, [step], [1e9 + step], torch.tensor([values], dtype=torch.float64))


def make(path: Path, last: int = 9, finish: bool = True, **options: Any) -> MonitorFolder:
    folder = MonitorFolder(path, SETTINGS, LAYERS, **options)
    record(folder, 1, last)
    folder.finish() if finish else folder.flush()
    return folder


def content(run: Run) -> dict[str, Any]:
    """All of a run, to compare it; nan as text."""
    table = {quantity: str(run.history[quantity].tolist()) for quantity in run.history.quantities}
    return {
        "name": run.name,
        "settings": run.settings,
        "layers": list(run.layers),
        "history": (run.history.layers, run.history.steps, run.history.times, table),
        "scalars": str(run.scalars),
        "finished": run.finished,
    }


# Round trips


def test_a_run_is_read_back(tmp_path: Path) -> None:
    make(tmp_path / "one")
    (run,) = load(tmp_path / "one")
    assert run.name == "one" and run.finished and run.path == tmp_path / "one"
    assert run.settings["optimizer"] == "LARS"
    assert run.settings["options"] == {"lr": 0.1, "betas": [0.9, 0.99], "eps": "inf"}
    assert run.settings["device"] == "device(type='cpu')"
    assert run.layers == LAYERS
    history = run.history
    assert history.layers == ("a.weight", "a.bias", "b")
    assert history.steps == list(range(1, 10)) and history.times == [1e9 + step for step in range(1, 10)]
    assert set(history.quantities) == {"weight_norm", "grad_norm", "cosine_distance"}
    nan = math.nan
    expected = torch.tensor([[nan, step, nan] for step in range(1, 10)])
    torch.testing.assert_close(history["weight_norm"], expected, equal_nan=True)
    expected = torch.tensor([[math.inf, 1 / step, nan] for step in range(1, 10)])
    torch.testing.assert_close(history["grad_norm"], expected, equal_nan=True, rtol=6e-7, atol=0)
    steps, distances = history.series("cosine_distance", "a.bias")
    assert steps == [3, 6, 9] and distances == pytest.approx([0.03, 0.06, 0.09])
    assert run.scalars["loss"].steps == [3, 6, 9]
    assert run.scalars["loss"].values == pytest.approx([1 / 3, 1 / 6, 1 / 9], rel=5e-7)
    assert all(math.isnan(value) for value in run.scalars["accuracy"].values)


def test_initial_weights_are_kept(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    assert folder.initial() is None
    weights = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3).bfloat16()}
    folder.save_initial(weights)
    found = MonitorFolder(tmp_path / "one", SETTINGS, LAYERS, resume=True).initial()
    assert found is not None and list(found) == list(weights)
    for name in weights:
        assert torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype


def test_records_alone_are_a_run(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    sink.log({"weight_norm/b": 2.0, "grad_norm/a": 1.0, "learning_rate": 0.5, "other/a": 7.0}, 4)
    sink.close()
    for path in (tmp_path, sink.path):
        (run,) = load(path)
        assert run.name == tmp_path.name and [layer.name for layer in run.layers] == ["b", "a"]
        assert run.history.series("grad_norm", "a") == ([4], [1.0])
        assert {name: series.values for name, series in run.scalars.items()} == {
            "learning_rate": [0.5],
            "other/a": [7.0],
        }


def test_layers_that_appear_later(tmp_path: Path) -> None:
    layers = LAYERS[:2]
    folder = MonitorFolder(tmp_path / "one", SETTINGS, layers)
    record(folder, 1, 3)
    folder.flush()
    follower = Follower(tmp_path / "one")
    layers.append(LayerInfo("new", (7,)))
    folder.records.log({"weight_norm/new": 5.0}, 4)
    folder.finish()
    assert follower.update()
    (run,) = load(tmp_path / "one")
    assert run.layers[-1] == LayerInfo("new", (7,))
    assert run.history.series("weight_norm", "new") == ([4], [5.0])
    assert content(follower.run) == content(run)


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    make(tmp_path / "one", finish=False)
    (run,) = load(tmp_path / "one")
    assert not run.finished and len(run.history) == 9


def test_a_torn_last_line_is_overlooked(tmp_path: Path) -> None:
    make(tmp_path / "one", finish=False)
    path = tmp_path / "one" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    (run,) = load(tmp_path / "one")
    assert run.history.steps == list(range(1, 9))


def test_a_run_that_has_recorded_nothing(tmp_path: Path) -> None:
    MonitorFolder(tmp_path / "one", SETTINGS, LAYERS)
    (run,) = load(tmp_path / "one")
    assert len(run.history) == 0 and run.history.quantities == () and run.layers == LAYERS


def test_a_thousand_records_of_fifty_layers_load_within_seconds(tmp_path: Path) -> None:
    layers = layer_infos(50)
    keys = [f"{quantity}/{layer.name}" for quantity in QUANTITIES[:10] for layer in layers]
    values = torch.rand(1000, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folder = MonitorFolder(tmp_path / "one", SETTINGS, layers)
    folder.records.log_many(keys, range(1000), [1e9] * 1000, values)
    folder.finish()
    start = time.perf_counter()
    (run,) = load(tmp_path / "one")
    assert time.perf_counter() - start < 3  # 0.3 s on one core of a laptop
    torch.testing.assert_close(run.history[QUANTITIES[9]], values[:, 450:].float(), rtol=6e-7, atol=0)


# Many runs


def test_a_comparison_gives_all_of_its_runs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("lars-s1-b", "lars-s0-a"):
        make(tmp_path / "runs" / name, name="LARS", done=False)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    (tmp_path / "runs" / "lars-s0-a" / "DONE").write_text('{"score": 1}')
    make(tmp_path / "runs" / "lamb-s0-c")
    make(tmp_path / ".hidden" / "x")
    make(tmp_path / "a" / "b" / "c" / "too-deep")
    runs = load(tmp_path)
    assert [(run.name, run.finished) for run in runs] == [
        ("lamb-s0-c", True),
        (os.path.join("runs", "lars-s0-a"), True),
        (os.path.join("runs", "lars-s1-b"), False),
    ]
    assert find(tmp_path) == [run.path for run in runs]
    assert load(tmp_path / "runs" / "lars-s0-a")[0].name == "LARS"
    assert (tmp_path / "runs" / "lars-s0-a" / "DONE").read_text() == '{"score": 1}'


@pytest.mark.parametrize(
    ("name", "what"), [("", "holds no run"), ("none", "does not exist"), ("file", "is not a folder")]
)
def test_no_run(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=f"{what}: looked for run.json or records.jsonl"):
        load(tmp_path / name)


def test_a_run_json_of_something_else_is_named_with_its_field(tmp_path: Path) -> None:
    make(tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    settings = json.loads(path.read_text())
    layer = settings["layers"][0]
    for change, what in (
        ("", "run.json, line 1: not JSON: it is empty"),
        ([], r"run.json: must be an object, {...}, got \[\]"),
        ({"kind": 1}, "of kind 1 and version 1, must be 'layerpace run' and 1"),
        ({"version": 2}, "of kind 'layerpace run' and version 2"),
        ({"name": 3}, "run.json, name: must be a string, got 3"),
        ({"settings": "all"}, "run.json, settings: must be an object, {...}, got 'all'"),
        ({"started": 1e308}, r"run.json, started: must be a number from -1e\+11 to 1e\+11, got 1e\+308"),
        ({"layers": None}, "run.json, layers: must be a list, got None"),
        ({"layers": [1]}, r"run.json, layers\[0\]: must be an object, {...}, got 1"),
        ({"layers": [{}]}, r"run.json: layers\[0\].name is missing"),
        ({"layers": [layer, layer]}, r"layers\[1\].name: must be a name that no layer before it has, got 'a.weight'"),
        ({"layers": [{**layer, "name": None}]}, r"layers\[0\].name: must be a string, got None"),
        ({"layers": [{**layer, "shape": "3x2"}]}, r"layers\[0\].shape: must be a list, got '3x2'"),
        (
            {"layers": [{**layer, "shape": [[3]]}]},
            r"layers\[0\].shape\[0\]: must be a whole number .* got \[3\]",
        ),
        ({"layers": [{**layer, "shape": [-3]}]}, r"layers\[0\].shape\[0\]: must be a whole number from 0"),
        ({"layers": [{**layer, "shape": [10**9] * 9}]}, r"layers\[0\].shape: must be at most 64 sizes"),
        ({"layers": [{**layer, "trained": 1}]}, r"layers\[0\].trained: must be true or false, got 1"),
    ):
        wrong = {**settings, **change} if isinstance(change, dict) else change
        path.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
        with pytest.raises(FileError, match=what) as caught:
            load(tmp_path)
        assert str(path) in str(caught.value)


def test_records_that_went_through_windows_are_read(tmp_path: Path) -> None:
    """Where git or an editor has turned the ends of lines into those of Windows."""
    make(tmp_path / "one")
    records = tmp_path / "one" / "records.jsonl"
    (whole,) = load(tmp_path)
    records.write_bytes(records.read_bytes().replace(b"\n", b"\r\n"))
    (run,) = load(tmp_path)
    assert content(run) == content(whole) and run.notes == ()


def test_damaged_lines_of_records_are_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path / "one")
    records = tmp_path / "one" / "records.jsonl"
    good = records.read_bytes().splitlines(keepends=True)
    (whole,) = load(tmp_path)
    assert whole.notes == ()
    short = b'{"set": 0, "step": 1, "time": 1.0, "values": [1]}\n'
    for bad, what in (
        (b"{}\n", "line 3: not one of records: b'{}'"),
        (b"\xff\x00\n", "line 3: not one of records"),
        (short.replace(b": 0,", b": 9,"), "line 3: no line before it has the keys of set 9"),
        (short, "line 3: its values are not 4 numbers"),
        (good[1].replace(b"null", b"oops"), "line 3: its values are not 4 numbers"),
        (good[1].replace(b"[", b"[["), "line 3: its values are not 4 numbers"),
        (good[1].replace(b"null", b'"x"'), "line 3: its values are not 4 numbers"),
        (good[1].replace(b"null", b"9" * 400), "line 3: its values are not 4 numbers"),
        (good[1].replace(b'"step": ', b'"step": 99999999999999999999'), "line 3: not one of records"),
        (good[1].replace(b'"time": ', b'"time": ' + b"9" * 300), "line 3: not one of records"),
        (b'{"set": 5, "keys": [1]}\n', r"line 3: its keys, keys\[0\]: must be a string, got 1"),
        (b'{"set": 5, "keys": ' + b"[" * 5000 + b"\n", "line 3: its keys: nested deeper than 64 levels"),
    ):
        records.write_bytes(b"".join([*good[:2], bad, *good[2:]]))
        with pytest.warns(UserWarning, match=f"records.jsonl: 1 of {len(good) + 1} lines are damaged .* {what}"):
            (run,) = load(tmp_path)
        assert content(run) == content(whole)
        (note,) = run.notes
        assert re.search(what, note)
    records.write_bytes(short * 2)
    with pytest.raises(FileError, match=r"records.jsonl: none of its 2 lines can be read; line 1: no line before"):
        load(tmp_path)


def test_one_byte_that_is_wrong_costs_one_record(tmp_path: Path) -> None:
    make(tmp_path / "one", 20)
    records = tmp_path / "one" / "records.jsonl"
    whole = records.read_bytes()
    steps = load(tmp_path)[0].history.steps
    for place in range(whole.index(b"\n") + 1, len(whole), 97):  # after the first line of keys, which all need
        records.write_bytes(whole[:place] + b"\x00" + whole[place + 1 :])
        if b'"keys"' in next(line for line in records.read_bytes().splitlines() if b"\x00" in line):
            continue
        with pytest.warns(UserWarning, match=r"1 of \d+ lines are damaged"):
            (run,) = load(tmp_path)
        assert len(steps) - 2 <= len(run.history.steps) <= len(steps)  # a line end that goes takes two with it


def test_of_several_runs_the_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in "abc":
        make(tmp_path / name)
    (tmp_path / "b" / "run.json").write_text("")
    with pytest.warns(UserWarning, match=rf"left out: {tmp_path}/b/run.json, line 1: not JSON: it is empty"):
        runs = load(tmp_path)
    assert [run.name for run in runs] == ["a", "c"]
    for name in "ac":
        (tmp_path / name / "run.json").write_text("{")
    with pytest.raises(FileError, match=r"a/run.json, line 1: not JSON .* \(and 2 more runs\)"):
        load(tmp_path)


def test_many_records_are_thinned_evenly(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", 0, finish=False, max_records=5000)
    record(folder, 1, 400)
    folder.finish()
    (whole,) = load(tmp_path)
    for most in (400, 100, 30):
        (run,) = load(tmp_path, most)
        stride = 2 ** max(0, math.ceil(math.log2(267 / most)))  # 267 records have two quantities, 133 three
        assert run.history.steps[0] == 1 and run.history.steps[-1] > 400 - 3 * stride
        pairs = [step for step in run.history.steps if step % 3]
        assert pairs == [step for step in whole.history.steps if step % 3][::stride]
        assert len(run.scalars["loss"].steps) <= most
        assert bool(run.notes) == (stride > 1)
        picked = whole.history["weight_norm"][[whole.history.steps.index(step) for step in run.history.steps]]
        torch.testing.assert_close(run.history["weight_norm"], picked, rtol=0, atol=0, equal_nan=True)


def test_initial_weights_that_are_damaged_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    folder.save_initial({"a": torch.ones(100)})
    path = tmp_path / "one" / "initial.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"nothing of the kind"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=rf"^{path} cannot be read: damaged or cut short"):
            folder.initial()
    for other in ([1, 2], {1: torch.ones(1)}, {"a": 1.0}):
        torch.save(other, path)
        with pytest.raises(FileError, match="it has no weights by name"):
            folder.initial()


# Writing


def test_a_folder_with_a_run_is_not_started_again(tmp_path: Path) -> None:
    make(tmp_path / "one")
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    with pytest.raises(FileExistsError, match="has a run already: resume=True"):
        MonitorFolder(tmp_path / "one", SETTINGS, LAYERS)
    with pytest.raises(
        ValueError, match=r"another model: its layer 'a.weight' of shape \[3, 2\] stands where this one"
    ):
        MonitorFolder(tmp_path / "one", SETTINGS, [LayerInfo("a.weight", (3, 3))], resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        MonitorFolder(tmp_path / "file", SETTINGS, LAYERS)


def test_going_on_in_a_folder(tmp_path: Path) -> None:
    make(tmp_path / "whole", 20, name="n")
    make(tmp_path / "parts", 12, name="n")
    (before,) = load(tmp_path / "parts")
    folder = MonitorFolder(tmp_path / "parts", {"optimizer": "other"}, LAYERS, resume=True)
    assert not load(tmp_path / "parts")[0].finished
    found = folder.found()
    assert found.history.steps == before.history.steps
    record(folder, 13, 20)
    folder.finish()
    (whole,), (parts,) = load(tmp_path / "whole"), load(tmp_path / "parts")
    assert content(parts) == {**content(whole), "settings": {"optimizer": "other"}}
    started = [json.loads((tmp_path / name / "run.json").read_text())["started"] for name in ("whole", "parts")]
    assert time.time() - 60 < started[0] < started[1] < time.time()


def test_done_can_be_left_to_somebody_else(tmp_path: Path) -> None:
    done = tmp_path / "one" / "DONE"
    folder = make(tmp_path / "one", done=False)
    assert not done.exists()
    done.write_text("result")
    MonitorFolder(tmp_path / "one", SETTINGS, LAYERS, resume=True, done=False).finish()
    assert done.read_text() == "result" and folder.path == tmp_path / "one"


# Following


def assert_follows(follower: Follower, path: Path) -> None:
    (run,) = load(path)
    assert content(follower.run) == content(run)


def test_a_follower_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "one", finish=False)
    follower = Follower(tmp_path / "one")
    assert_follows(follower, tmp_path / "one")
    assert not follower.update()
    fed: list[int] = []
    feed = type(follower._replay).feed

    def counted(self: Replay, lines: Iterable[bytes]) -> None:
        lines = list(lines)
        fed.append(len(lines))
        feed(self, lines)

    monkeypatch.setattr(type(follower._replay), "feed", counted)
    record(folder, 10, 11)
    folder.flush()
    assert follower.update()
    assert fed == [2]
    assert_follows(follower, tmp_path / "one")
    folder.finish()
    assert follower.update() and follower.run.finished
    assert not follower.update()


def test_a_follower_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    make(tmp_path / "one", finish=False)
    path = tmp_path / "one" / "records.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    follower = Follower(tmp_path / "one")
    assert follower.run.history.steps == list(range(1, 9))
    assert not follower.update()
    with open(path, "ab") as file:
        file.write(data[-30:])
    assert follower.update()
    assert_follows(follower, tmp_path / "one")


@pytest.mark.parametrize("change", ["thinned", "thinned twice", "truncated", "truncated and longer", "emptied"])
def test_a_follower_sees_that_the_file_is_another(tmp_path: Path, change: str) -> None:
    folder = make(tmp_path / "one", 16, finish=False, max_records=16)
    follower = Follower(tmp_path / "one")
    assert len(follower.run.history) == 16
    if change.startswith("thinned"):
        for last in (60, 200) if change == "thinned twice" else (60,):
            record(folder, folder.records._sets[("loss", "accuracy")].last + 1, last)
            folder.flush()
    else:
        folder.records.truncate(0 if change == "emptied" else 5)
        if change == "truncated and longer":
            record(folder, 7, 30)
            folder.flush()
    assert follower.update()
    assert_follows(follower, tmp_path / "one")
    assert not follower.update()


def test_a_file_that_is_cut_in_place_and_grows_again_is_read_again(tmp_path: Path) -> None:
    """As another writer might: the inode is the same, and the file is no shorter."""
    make(tmp_path / "one", finish=False)
    follower = Follower(tmp_path / "one")
    path = tmp_path / "one" / "records.jsonl"
    make(tmp_path / "other", 30, finish=False)
    path.write_bytes((tmp_path / "other" / "records.jsonl").read_bytes().replace(b'"step": 9,', b'"step": 8,'))
    assert follower.update()
    assert_follows(follower, tmp_path / "one")


def test_a_thinned_file_of_the_same_size_and_empty_records_is_another(tmp_path: Path) -> None:
    folder = MonitorFolder(tmp_path / "one", SETTINGS, LAYERS, 8)
    keys = [f"{quantity}/layer {k}" for quantity in QUANTITIES for k in range(20)]
    path = tmp_path / "one" / "records.jsonl"

    def nothing(first: int, last: int) -> None:
        for step in range(first, last):
            folder.records.log(dict.fromkeys(keys, math.nan), step, 1e9)
        folder.flush()

    nothing(100, 115)
    size = path.stat().st_size
    follower = Follower(tmp_path / "one")
    assert follower.run.history.steps == [*range(100, 116, 2)]
    nothing(115, 129)
    assert path.stat().st_size == size
    assert follower.update()
    assert follower.run.history.steps == [*range(100, 132, 4)]


def test_a_follower_from_before_the_first_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Follower(tmp_path / "one")
    folder = MonitorFolder(tmp_path / "one", SETTINGS, LAYERS)
    follower = Follower(tmp_path / "one")
    assert len(follower.run.history) == 0 and not follower.update()
    record(folder, 1, 5)
    folder.flush()
    assert follower.update()
    assert_follows(follower, tmp_path / "one")


def test_runs_in_memory_and_on_disk_have_the_same_shape(tmp_path: Path) -> None:
    """Scalars are a mapping of series, settings a mapping, as in memory."""
    make(tmp_path / "one")
    (run,) = load(tmp_path / "one")
    assert isinstance(run.settings, Mapping) and isinstance(run.scalars, Mapping)
    assert all(isinstance(value, float) for series in run.scalars.values() for value in series.values)
    assert all(isinstance(step, int) for step in run.history.steps)
