"""Sinks: what is logged is read back, in bounded files that survive a crash; and each library has what it was given."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import layerpace as lp
from layerpace.monitors import sinks
from layerpace.monitors.history import History
from layerpace.monitors.replay import Replay
from layerpace.monitors.sinks import JSONL
from layerpace.monitors.sinks import aside as files
from layerpace.monitors.sinks import jsonl as module
from layerpace.monitors.sinks.text import format_values

KEYS = ["weight_norm/a", "weight_norm/b", "grad_norm/a"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def steps_of(path: Path, number: int = 0) -> list[int]:
    return [line["step"] for line in lines(path) if line["set"] == number and "step" in line and "values" in line]


def record(sink: JSONL, first: int, last: int, every: int = 10) -> None:
    """Records of the steps at which a monitor makes them, 1 and multiples of ``every``; a loss at multiples of 15."""
    for step in range(first, last + 1):
        if step == 1 or step % every == 0:
            row = torch.tensor([[step, math.nan, 1 / step]], dtype=torch.float64)
            sink.log_many(KEYS, [step], [1e9 + step], row)
        if step % 15 == 0:
            sink.log({"loss": 1 / step}, step, 1e9 + step)


# The lines


def test_a_file_is_as_documented(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "deep" / "records.jsonl")
    sink.log_many(KEYS, [10, 20], [1e9, 1e9 + 0.1234], torch.tensor([[0.1, math.nan, math.inf], [1, -math.inf, 2]]))
    sink.log({"loss": 0.25}, 20, 1e9 + 1)
    sink.close()
    assert sink.path.read_text() == (
        '{"set": 0, "keys": ["weight_norm/a", "weight_norm/b", "grad_norm/a"]}\n'
        '{"set": 0, "step": 10, "time": 1000000000.000, "values": [0.1,null,1e999]}\n'
        '{"set": 0, "step": 20, "time": 1000000000.123, "values": [1,-1e999,2]}\n'
        '{"set": 1, "keys": ["loss"]}\n'
        '{"set": 1, "step": 20, "time": 1000000001.000, "values": [0.25]}\n'
    )


@given(st.lists(st.floats(width=64), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_values_are_read_back_to_7_digits(values: list[float]) -> None:
    text = f"[{format_values(torch.tensor(values, dtype=torch.float64))}]"
    read = [math.nan if x is None else float(x) for x in json.loads(text)]
    for value, found in zip(values, read, strict=True):
        if math.isnan(value):
            assert math.isnan(found)
        else:
            assert found == value or math.isclose(found, value, rel_tol=5e-7, abs_tol=5e-324)


rows = st.lists(st.floats(width=32), min_size=3, max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["layers", "loss", "both"]), rows), max_size=30), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_what_is_logged_is_read_back(tmp_path_factory: Any, records: list[tuple[str, list[float]]], flush: int) -> None:
    sink = JSONL(tmp_path_factory.mktemp("run") / "records.jsonl", max_records=None)
    for step, (kind, row) in enumerate(records, 1):
        values = dict(zip(KEYS, row, strict=True)) if kind != "loss" else {}
        sink.log(values | ({"loss": row[0]} if kind != "layers" else {}), step)
        if step % flush == 0:
            sink.flush()
    sink.close()
    replay = Replay([])
    replay.feed(sink.path.read_bytes().splitlines())
    expected = [(step, row) for step, (kind, row) in enumerate(records, 1) if kind != "loss"]
    assert replay.history.steps == [step for step, _ in expected]
    for place, (_, row) in enumerate(expected):
        found = [replay.history[k.split("/")[0]][place, "ab".index(k[-1])] for k in KEYS]
        torch.testing.assert_close(torch.stack(found), torch.tensor(row), rtol=6e-7, atol=0, equal_nan=True)
    losses = [(step, row[0]) for step, (kind, row) in enumerate(records, 1) if kind != "layers"]
    if losses:
        series = replay.scalars["loss"]
        assert series.steps == [step for step, _ in losses]
        assert series.values == pytest.approx([loss for _, loss in losses], rel=5e-7, abs=0, nan_ok=True)


# Bounds


@pytest.mark.parametrize("flush", [1, 3, 1000])
@pytest.mark.parametrize("limit", [2, 3, 8])
def test_as_many_are_kept_as_in_memory_whenever_they_are_written(tmp_path: Path, limit: int, flush: int) -> None:
    sink, history = JSONL(tmp_path / "records.jsonl", limit), History(["a", "b"], limit)
    for step in range(1, 101):
        sink.log_many(KEYS, [step], [0.0], torch.full((1, 3), float(step)))
        history.append(step, 0.0, {})
        if step % flush == 0:
            sink.flush()
            assert len(steps_of(sink.path)) <= limit
            assert steps_of(sink.path) == history.steps
    sink.close()
    assert steps_of(sink.path) == history.steps
    assert len(history) > limit / 2


def test_many_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    one, many = JSONL(tmp_path / "one.jsonl", 8), JSONL(tmp_path / "many.jsonl", 8)
    values = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    for first, last in ((0, 1), (1, 30), (30, 37), (37, 100)):
        many.log_many(KEYS, range(first, last), [float(step) for step in range(first, last)], values[first:last])
        for step in range(first, last):
            one.log_many(KEYS, [step], [float(step)], values[step : step + 1])
    one.close()
    many.close()
    assert many.path.read_bytes() == one.path.read_bytes()


def test_each_set_of_keys_is_bounded_by_itself(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 8)
    record(sink, 1, 400)
    sink.close()
    assert steps_of(sink.path, 0) == [1, 80, 160, 240, 320, 400]
    assert steps_of(sink.path, 1) == [15, 75, 135, 195, 255, 315, 375]
    strides = {line["set"]: line["stride"] for line in lines(sink.path) if "keys" in line}
    assert strides == {0: 8, 1: 4}


def test_what_is_dropped_is_not_formatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 2)
    sink.log_many(KEYS, range(1000), [0.0] * 1000, torch.zeros(1000, 3))
    assert len(sink._gathered) == 2
    formatted = []
    monkeypatch.setattr(module, "record_line", lambda *args: formatted.append(args) or "\n")
    sink.flush()
    assert len(formatted) == 2


def test_values_are_copied(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    values = torch.ones(1, 3)
    sink.log_many(KEYS, [1], [0.0], values)
    values.zero_()
    sink.close()
    assert lines(sink.path)[1]["values"] == [1, 1, 1]


def test_records_are_gathered_and_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda file, data: writes.append(len(data)) or real(file, data))
    sink = JSONL(tmp_path / "records.jsonl", None)
    for step in range(module.GATHERED - 1):
        sink.log({"loss": 1.0}, step)
    assert not writes
    sink.log({"loss": 1.0}, 1000)
    assert len(writes) == 1 and len(steps_of(sink.path)) == module.GATHERED
    wide = torch.zeros(2, module.GATHERED_BYTES // module.NUMBER_BYTES // 2 + 1)
    sink.log_many([str(k) for k in range(wide.shape[1])], [1, 2], [0.0, 0.0], wide)
    assert len(writes) == 2


# Interruptions


@pytest.mark.parametrize("cut", [1, 7, 10, 44, 45, 90, 155, 160, 161, 240, 333, 399])
def test_a_closed_file_goes_on_as_if_it_had_not_been_closed(tmp_path: Path, cut: int) -> None:
    whole, parts = JSONL(tmp_path / "whole.jsonl", 8), JSONL(tmp_path / "parts.jsonl", 8)
    record(whole, 1, 400)
    record(parts, 1, cut)
    parts.close()
    parts = JSONL(tmp_path / "parts.jsonl", 8, resume=True)
    record(parts, cut + 1, 400)
    whole.close()
    parts.close()
    assert parts.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 10, 25, 50, 100, 155, 170, 240, 330])
@pytest.mark.parametrize("lost", [10, 70, 150])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path, cut: int, lost: int, closed: bool) -> None:
    """Steps ``cut`` to ``cut + lost`` are done twice."""
    whole, parts = JSONL(tmp_path / "whole.jsonl", 8), JSONL(tmp_path / "parts.jsonl", 8)
    record(whole, 1, 600)
    record(parts, 1, cut + lost)
    parts.close() if closed else parts.flush()
    parts = JSONL(tmp_path / "parts.jsonl", 8, resume=True)
    parts.truncate(cut)
    assert all(step <= cut for number in (0, 1) for step in steps_of(parts.path, number))
    record(parts, cut + 1, 600)
    whole.close()
    parts.close()
    assert parts.path.read_bytes() == whole.path.read_bytes()


def test_truncating_what_has_not_been_written(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    record(sink, 1, 100)
    sink.truncate(40)
    assert steps_of(sink.path) == [1, 10, 20, 30, 40]
    before = sink.path.read_bytes()
    sink.truncate(40)
    assert sink.path.read_bytes() == before
    sink.truncate(0)
    assert sink.path.read_bytes() == b""


def test_truncating_where_nothing_is_later_leaves_the_file_alone(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 8)
    record(sink, 1, 200)
    sink.flush()
    sink = JSONL(sink.path, 8, resume=True)
    before = sink.path.stat()
    sink.truncate(200)
    after = sink.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_after_a_crash_the_next_record_is_kept_and_counted_from(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 8)
    record(sink, 1, 11, every=1)
    sink.flush()
    assert steps_of(sink.path) == [1, 3, 5, 7, 9, 11]
    sink = JSONL(sink.path, 8, resume=True)
    record(sink, 20, 21, every=1)
    sink.close()
    assert steps_of(sink.path) == [1, 3, 5, 7, 9, 11, 20]
    assert lines(sink.path)[-1] == {"set": 0, "seen": 14, "step": 21}
    sink = JSONL(sink.path, 8, resume=True)
    record(sink, 22, 22, every=1)
    sink.close()
    assert steps_of(sink.path) == [1, 3, 5, 7, 9, 11, 20, 22]


def test_the_count_after_truncating(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 8)
    record(sink, 1, 14, every=1)
    sink.truncate(10)
    sink.close()
    assert lines(sink.path)[-1] == {"set": 0, "seen": 10, "step": 10}


def test_a_key_line_without_its_records_is_cut_off(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    record(sink, 1, 15)
    sink.close()
    content = sink.path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    sink.path.write_bytes(content[:last])
    sink = JSONL(sink.path, resume=True)
    assert [line["set"] for line in lines(sink.path) if "keys" in line] == [0]
    record(sink, 15, 15)
    sink.close()
    assert sink.path.read_bytes() == content


@pytest.mark.parametrize("torn", [1, 20, 60])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: int) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    record(sink, 1, 40, every=1)
    sink.flush()
    content = sink.path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    sink.path.write_bytes(content[: last + torn])
    sink = JSONL(sink.path, resume=True)
    assert sink.path.read_bytes() == content[:last]
    record(sink, 40, 40)
    sink.close()
    assert steps_of(sink.path) == list(range(1, 41))


def test_resuming_with_a_lower_limit_thins(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 100)
    record(sink, 1, 80, every=1)
    sink.close()
    sink = JSONL(sink.path, 10, resume=True)
    assert steps_of(sink.path) == list(range(1, 81, 8))


def test_resuming_without_a_file_starts_one(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl", resume=True)
    sink.log({"loss": 1.0}, 1)
    sink.close()
    assert steps_of(sink.path) == [1]


@pytest.mark.parametrize("when", ["thinning", "truncating"])
def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path, when: str) -> None:
    sink = JSONL(tmp_path / "records.jsonl", 20)
    record(sink, 1, 20, every=1)
    sink.flush()
    before = sink.path.read_bytes()
    child = os.fork()
    if child == 0:
        os.replace = lambda *paths: os._exit(9)  # type: ignore[assignment]
        if when == "thinning":
            record(sink, 21, 22, every=1)
            sink.flush()
        else:
            sink.truncate(5)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / "records.jsonl.part").exists()
    assert sink.path.read_bytes() == before
    sink = JSONL(sink.path, 20, resume=True)
    record(sink, 21, 22, every=1)
    sink.close()
    assert steps_of(sink.path) == list(range(1, 22, 2))


def test_a_full_disk_leaves_the_file_whole_and_keeps_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    record(sink, 1, 10)
    sink.flush()
    before = sink.path.read_bytes()
    real, calls = os.write, []

    def full(file: int, data: Any) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, data[:30])

    record(sink, 11, 20)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            sink.flush()
    assert sink.path.read_bytes() == before
    sink.close()
    assert steps_of(sink.path) == [1, 10, 20]


# Bad input


def test_a_file_with_records_is_not_started_again(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    sink.log({"loss": 1.0}, 1)
    sink.close()
    with pytest.raises(FileExistsError, match="has records already: resume=True"):
        JSONL(sink.path)
    with pytest.raises(RuntimeError, match="closed"):
        sink.log({"loss": 1.0}, 2)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"loss": 1}\n')
    with pytest.raises(ValueError, match="line 1: not a line of records"):
        JSONL(path, resume=True)
    assert path.read_text() == '{"loss": 1}\n'


@pytest.mark.parametrize(
    ("values", "step", "time", "error"),
    [
        ({"loss": "high"}, 1, 0.0, TypeError),
        ({"loss": None}, 1, 0.0, TypeError),
        ({"loss": torch.ones(2)}, 1, 0.0, TypeError),
        ({1: 1.0}, 1, 0.0, TypeError),
        ({"loss": 1.0}, 1.5, 0.0, TypeError),
        ({"loss": 1.0}, 1, math.nan, ValueError),
    ],
)
def test_bad_values(tmp_path: Path, values: Any, step: Any, time: float, error: type[Exception]) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    with pytest.raises(error):
        sink.log(values, step, time)
    sink.close()
    assert sink.path.read_bytes() == b""


def test_bad_shapes_and_limits(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match=r"\[1, 3\] with as many times, got \[1, 2\] and 1 times"):
        sink.log_many(KEYS, [1], [0.0], torch.zeros(1, 2))
    with pytest.raises(TypeError):
        sink.log_many(KEYS, [1, "2"], [0.0, 0.0], torch.zeros(2, 3))  # type: ignore[list-item]
    sink.close()
    assert sink.path.read_bytes() == b""
    with pytest.raises(ValueError, match="max_records"):
        JSONL(tmp_path / "other.jsonl", max_records=1)


# Any sink


class Own:
    """A sink of a user's, with ``log`` alone."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, float], int]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.seen.append((dict(values), step))


def test_an_object_with_log_alone_is_a_sink() -> None:
    own = Own()
    assert sinks.get(own) is own and isinstance(own, sinks.Sink)
    sinks.log(own, {"a": 1.0}, 3, 1e9)
    sinks.flush(own)
    sinks.close(own)
    assert own.seen == [({"a": 1.0}, 3)]


def test_a_function_of_values_and_step_is_a_sink() -> None:
    seen: list[tuple[dict[str, float], int]] = []

    def take(values: Mapping[str, float], step: int) -> None:
        seen.append((dict(values), step))

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=None, sinks=[take, lambda values, step: 1 / 0])
    with pytest.warns(UserWarning, match="the sink <lambda> is left out from now on: ZeroDivisionError"):
        monitor.log({"loss": 2.0})
    monitor.close()
    assert seen == [({"loss": 2.0}, 0)]
    with pytest.raises(TypeError, match=r"a function that is a sink takes \(values, step\), <lambda> takes \(x\)"):
        lp.Monitor(model, optimizer, out=None, sinks=[lambda x: x])


def test_a_writer_of_another_library_than_torch_is_a_sink() -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def add_scalar(self, tag: str, value: float, step: int, time: float | None = None) -> None:
            self.seen.append((tag, value, step, time))

        def flush(self) -> None: ...

    writer = Writer()
    sinks.log(sinks.get(writer), {"a": 1.0, "b": math.nan}, 3, 1e9)
    assert writer.seen == [("a", 1.0, 3, 1e9)]


def test_what_is_no_sink() -> None:
    with pytest.raises(ValueError, match="'tensorboard', 'wandb', 'trackio', 'mlflow', got 'csv'"):
        sinks.get("csv")
    for thing in (Own, object(), 3, None):
        with pytest.raises(TypeError, match="a sink is a name or an object"):
            sinks.get(thing)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sinks.NAMES)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module_name in (name, f"torch.utils.{name}"):
        monkeypatch.setitem(sys.modules, module_name, None)
    with pytest.raises(ImportError, match=rf"needs {name}: pip install 'layerpace\[{name}\]'"):
        sinks.get(name)


def test_importing_sinks_imports_none_of_them() -> None:
    program = (
        "import sys, layerpace.monitors.sinks, layerpace.monitors.folder; "
        f"print([name for name in {[*sinks.NAMES, 'torch.utils.tensorboard']} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("sinks", ["tensorboard", None, 3])
def test_sinks_are_a_list(sinks: Any) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"sinks must be a list, such as \['tensorboard'\], got"):
        lp.Monitor(model, torch.optim.SGD(model.parameters()), out=None, sinks=sinks)


def test_a_history_without_records_says_so() -> None:
    model = torch.nn.Linear(2, 2)
    with (
        lp.Monitor(model, torch.optim.SGD(model.parameters()), out=None) as monitor,
        pytest.raises(ValueError, match="no record has 'weight_norm': there is none yet"),
    ):
        monitor.history["weight_norm"]


def test_going_on_with_a_damaged_line_leaves_it_out(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    sink = JSONL(path)
    for step in range(1, 7):
        sink.log({"loss": 1 / step}, step)
    sink.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\x00\xff\n", *lines[4:]]))
    with pytest.warns(UserWarning, match=r"records.jsonl: 1 of 7 lines are damaged; line 4: .*: left out from now on"):
        sink = JSONL(path, resume=True)
    sink.log({"loss": 0.0}, 7)
    sink.close()
    replay = Replay([])
    replay.feed(path.read_bytes().splitlines())
    assert (replay.damaged, replay.scalars["loss"].steps) == (0, [1, 2, 4, 5, 6, 7])
