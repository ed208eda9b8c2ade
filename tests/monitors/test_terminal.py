"""`layerpace watch`: what it says of a run, and that it fits the terminal."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from layerpace import cli
from layerpace.monitors.diagnose import Finding
from layerpace.monitors.history import History
from layerpace.monitors.run import Run, Series
from layerpace.monitors.terminal import WatchError, watch
from layerpace.monitors.terminal.characters import (
    ASCII,
    UNICODE,
    Characters,
    characters_for,
    clean,
    cut,
    duration,
    figure,
    scale,
    sparkline,
)
from layerpace.monitors.terminal.snapshot import Snapshot, arranged, matches, take
from layerpace.monitors.terminal.table import page
from layerpace.monitors.terminal.watch import View

from .made import altered, made_run, records_of

cells = pytest.importorskip("rich.cells")
from rich.console import Console  # noqa: E402

SOURCE = Path(cli.__file__).parents[1]


def finding(severity: str, *layers: str, kind: str = "stopped", message: str = "It has stopped.") -> Any:
    return Finding(kind=kind, severity=severity, layers=layers, steps=None, message=message, evidence="", suggestion="")


def write_run(folder: Path, run: Run, *, age: float = 1.0, done: bool = False) -> Path:
    """A run folder as `layerpace.Monitor` writes it; the last record is `age` seconds old."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = [
        {"name": layer.name, "shape": list(layer.shape), "excluded": layer.excluded, "trained": layer.trained}
        for layer in run.layers
    ]
    about = {"kind": "layerpace run", "version": 1, "name": folder.name, "settings": {}, "layers": layers, "started": 1}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "records.jsonl").write_text("".join(record_lines(run, age)))
    if done:
        (folder / "DONE").touch()
    return folder


def record_lines(run: Run, age: float) -> list[str]:
    quantities = run.history.quantities
    lines = [{"set": 0, "keys": [f"{quantity}/{name}" for quantity in quantities for name in run.history.layers]}]
    times = run.history.times
    shift = time.time() - age - (times[-1] if times else 0.0)
    for step, at, values in records_of(run.history):
        row = [x for quantity in quantities for x in values[quantity].tolist()]
        lines.append({"set": 0, "step": step, "time": at + shift, "values": row})
    if run.scalars:
        lines.append({"set": 1, "keys": list(run.scalars)})
        last = {"set": 1, "step": run.history.steps[-1], "time": times[-1] + shift}
        lines.append({**last, "values": [series.values[-1] for series in run.scalars.values()]})
    return [json.dumps(line).replace("NaN", "null").replace("Infinity", "1e999") + "\n" for line in lines]


def text_of(shot: Snapshot, width: int = 100, height: int | None = None, **options: Any) -> list[str]:
    given = {"now": (shot.time or 0.0) + 1.0, "characters": UNICODE, **options}
    return [line.plain for line in page(shot, width=width, height=height, **given)]


def once(folder: Path, width: int = 100, encoding: str = "utf-8", **options: Any) -> str:
    """What --once prints into a pipe."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    watch(folder, once=True, console=Console(file=out, width=width, highlight=False), **options)
    out.flush()
    return raw.getvalue().decode(encoding)


def row_of(lines: list[str] | str, name: str) -> str:
    listed = lines.splitlines() if isinstance(lines, str) else lines
    return next(line for line in listed if line.startswith(name + " "))


# What a terminal can show


def test_figures_take_seven_characters_and_keep_their_size() -> None:
    cases = {0.0: "0", 1.0: "1", 0.00123: "0.00123", 1234.5: "1.23e+03", 9.87e-9: "9.9e-09", 1.5e20: "1.5e+20"}
    assert figure(math.nan) == "-"
    assert figure(math.inf) == "inf"
    for value, text in cases.items():
        assert figure(value) == (text if len(text) <= 7 else "1e+03")
        assert len(figure(-value)) <= 7
    for power in range(-44, 39):
        for digits in (1.0, 1.2345, 9.9949, 9.996):
            assert len(figure(digits * 10.0**power)) <= 7


def test_durations_are_short() -> None:
    assert [duration(s) for s in (-3, 0.4, 99, 600, 7200)] == ["0 s", "0 s", "99 s", "10 min", "2.0 h"]


def test_names_are_cut_in_the_middle_to_a_width_in_cells() -> None:
    assert cut("encoder.blocks.0.attn", 30, "…") == "encoder.blocks.0.attn"
    assert cut("encoder.blocks.0.attn", 11, "…", middle=True) == "enco…0.attn"
    assert cut("encoder.blocks.0.attn", 11, "…") == "encoder.bl…"
    for width in range(12):
        for name in ("encoder.blocks.0.attn", "層層層層層層層層", "éa層b" * 4):
            for middle in (True, False):
                assert cells.cell_len(cut(name, width, "…", middle=middle)) <= width


def test_control_sequences_in_names_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[31mb\nc\x07") == "a?[31mb?c?"
    run = made_run(5, 6)
    evil = Run("x\x1b]0;title\x07", {}, run.layers, run.history, {"lo\nss": Series([51], [1.0])})
    bad = finding("error", run.history.layers[0], kind="k\x1b[2J", message="m\x1b[2J\nn")
    for line in text_of(take(evil, [bad]), width=120, others=["other\x1b[0m"]):
        assert line.isprintable()


def test_a_sparkline_is_the_log_of_the_figures_on_a_scale_of_all_layers() -> None:
    rising = [10.0 ** (-5 + k / 2) for k in range(8)]
    ends = scale(rising)
    assert ends == pytest.approx((-5.0, -1.5))
    assert sparkline(rising, 8, ends, UNICODE) == "▁▂▃▄▅▆▇█"
    assert sparkline(rising, 8, ends, ASCII) == "_.:-=+*#"
    assert sparkline(rising, 4, ends, UNICODE) == "▁▃▆█"  # geometric means of pairs
    assert sparkline([math.nan, 0.0, math.inf, 1e-9, 1e9], 9, ends, UNICODE) == " 0!▁█"
    assert sparkline([math.nan, 1e-5, math.inf, 1e-3, 0.0, 1e-1], 3, ends, UNICODE) == "▁!█"
    assert sparkline([], 9, ends, UNICODE) == ""
    assert scale([0.0, math.nan, math.inf]) == (0.0, 1.0)
    assert scale([1e-3] * 300 + [1e-30, 1e30]) == pytest.approx((-3.5, -2.5))


@pytest.mark.parametrize(
    ("encoding", "characters"), [("utf-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII), ("?", ASCII)]
)
def test_terminals_without_blocks_get_ascii(encoding: str, characters: Characters) -> None:
    assert characters_for(encoding) is characters


# A page


@pytest.mark.parametrize("characters", [UNICODE, ASCII])
@pytest.mark.parametrize("height", [None, 4, 12, 24])
@pytest.mark.parametrize("count", [1, 5, 200])
def test_no_page_is_wider_or_longer_than_the_terminal(count: int, height: int | None, characters: Characters) -> None:
    run = altered(made_run(count, 60), "relative_update_l1", 0, slice(50, 60), math.inf)
    many = [
        finding(("error", "warning", "note")[k % 3], run.history.layers[0], message="long " * 60) for k in range(20)
    ]
    shot = take(run, many)
    assert shot.time is not None
    for width in (9, 20, 40, 60, 80, 120, 250):
        for age in (1.0, 1000.0):
            lines = text_of(shot, width, height, now=shot.time + age, characters=characters, others=["other-run"] * 30)
            assert max(map(cells.cell_len, lines)) <= width
            assert height is None or len(lines) <= height
            if characters is ASCII:
                assert all(line.isascii() for line in lines)


def test_a_row_has_the_last_figures_of_its_layer() -> None:
    run = made_run(5, 40)
    lines = text_of(take(run, []), 100)
    for k, name in enumerate(("attn.qkv", "attn.qkv.bias", "attn.out", "attn.out.bias", "mlp.up")):
        words = row_of(lines, name).split()
        quantities = ("relative_update_l1", "rotation_angle", "cosine_distance", "trust_ratio")
        assert words[-4:] == [figure(float(run.history[quantity][-1, k])) for quantity in quantities]
    assert "update   angle  cosine   trust" in lines[3]


def test_a_figure_that_is_read_at_times_keeps_its_last_value() -> None:
    run = altered(made_run(5, 12), "cosine_distance", 0, slice(8, 12), math.nan)
    words = row_of(text_of(take(run, [])), "attn.qkv").split()
    assert words[-2] == figure(float(run.history["cosine_distance"][7, 0]))


def test_what_no_layer_has_takes_no_column() -> None:
    run = made_run(5, 12)
    for layer in range(5):
        run = altered(run, "trust_ratio", layer, slice(0, 12), math.nan)
    lines = text_of(take(run, []))
    assert not any("trust" in line for line in lines)
    assert any(line.endswith("cosine") for line in lines)


def test_optimizers_that_take_turns_leave_no_gaps_in_the_sparkline() -> None:
    run = made_run(3, 20)
    for layer in range(3):
        for record in range(20):
            if record % 2 != layer % 2:
                run = altered(run, "relative_update_l1", layer, slice(record, record + 1), math.nan)
    assert [len(row.updates) for row in take(run, []).rows] == [10, 10, 10]
    whole = altered(made_run(3, 20), "relative_update_l1", 0, slice(4, 7), math.nan)
    assert sparkline(take(whole, []).rows[0].updates, 20, (-5, 0), UNICODE)[3:8].count(" ") == 3


def test_header_has_step_pace_age_and_scalars() -> None:
    run = made_run(5, 40)
    shot = take(run, [])
    assert shot.time is not None
    head = text_of(shot, 120, now=shot.time + 4)[:3]
    assert head[0] == "made  running"
    assert head[1] == "step 391 · 5 steps/s · last record 4 s ago · 40 records · 5 layers"
    assert head[2] == "loss 0.7512 · test_accuracy 0.6513 (step 361)"


def test_silence_is_told_and_a_finished_run_is_not_silent() -> None:
    run = made_run(5, 40)
    shot = take(run, [])
    assert shot.time is not None
    assert not shot.stale(shot.time + 29)
    late = text_of(shot, now=shot.time + 1000)
    assert late[0] == "made  silent"
    assert late[2] == "! no record for 17 min; usually 2 s: has the training stopped?"
    ended = take(made_run(5, 40, finished=True), [])
    lines = text_of(ended, now=shot.time + 1000)
    assert lines[0] == "made  finished"
    assert not any("no record for" in line or "ago" in line for line in lines)


def test_slow_runs_are_not_silent_before_five_times_their_pace() -> None:
    history = History(["a"])
    one = made_run(1, 1).history
    for k, (_, _, values) in enumerate(records_of(one) * 4):
        history.append(k + 1, 100.0 * k, values)
    shot = take(Run("slow", {}, made_run(1, 1).layers, history), [])
    assert not shot.stale(300.0 + 499)
    assert shot.stale(300.0 + 501)


def test_flags_are_letters_and_colours() -> None:
    run = made_run(5, 12)
    names = run.history.layers
    found = [finding("note", names[0]), finding("warning", *names[1:3]), finding("error", names[2], kind="runs away")]
    shot = take(run, found)
    assert shot.time is not None
    lines = page(shot, width=80, height=None, now=shot.time, characters=UNICODE)
    rows = [line for line in lines if line.plain.startswith(("attn", "mlp"))]
    assert [row.plain[-1] for row in rows[:3]] == ["N", "W", "E"]
    assert [str(row.spans[-1].style) for row in rows[:3]] == ["cyan", "yellow", "bold red"]
    assert all(row.plain.rstrip()[-1].isdigit() or row.plain.rstrip()[-1] == "-" for row in rows[3:])
    assert row_of(text_of(shot, 120), "encoder.blocks.0.attn.out").rstrip().endswith("E runs away")
    assert [line.plain for line in lines[-3:]] == ["E It has stopped.", "W It has stopped.", "N It has stopped."]


def test_flagged_layers_come_first_where_there_is_no_room_for_all() -> None:
    run = made_run(200, 12)
    flagged = run.history.layers[150]
    lines = text_of(take(run, [finding("warning", flagged)]), 80, 20)
    shown = [line for line in lines if line.endswith((" W",)) and not line.startswith("W")]
    assert len(shown) == 1
    assert len(lines) == 20
    assert lines[-1] == "W It has stopped."
    (more,) = [line for line in lines if line.endswith("more layers")]
    rows = lines.index(more) - next(k for k, line in enumerate(lines) if line.startswith("layer")) - 1
    assert more == f"... {200 - rows} more layers"


def test_rows_are_sorted_as_asked() -> None:
    run = altered(made_run(6, 12), "relative_update_l1", 3, slice(0, 12), math.nan)
    run = altered(run, "relative_update_l1", 4, slice(11, 12), math.inf)
    names = run.history.layers
    rows = take(run, [finding("note", names[5]), finding("error", names[2])]).rows
    assert [row.place for row in arranged(rows, "layer", None)] == [0, 1, 2, 3, 4, 5]
    assert [row.place for row in arranged(rows, "findings", None)] == [2, 5, 0, 1, 3, 4]
    by_update = [row.place for row in arranged(rows, "relative-update", None)]
    assert by_update[0] == 4 and by_update[-1] == 3
    last = run.history["relative_update_l1"][-1]
    assert by_update[1:-1] == sorted((0, 1, 2, 5), key=lambda k: -float(last[k]))
    assert [row.place for row in arranged(rows, "layer", 3)] == [0, 2, 5]
    with pytest.raises(ValueError, match="sort must be one of"):
        arranged(rows, "name", None)


def test_layers_are_chosen_by_part_of_the_name_or_glob() -> None:
    assert matches("a.attn.weight", None)
    assert matches("a.attn.weight", "mlp, attn")
    assert matches("a.attn.weight", "a.*.weight")
    assert not matches("a.attn.weight", "*.bias,mlp")
    assert matches("qkv.weight[1]", "weight[1]") and matches("qkv.weight[1]", "*[1]")
    assert not matches("qkv.weight[0]", "*[1]")
    run = made_run(8, 4)
    assert [row.place for row in take(run, [], "bias").rows] == [1, 3, 5, 7]
    with pytest.raises(WatchError, match=r"no layer of made matches 'x\*'; it has encoder.blocks.0.attn.qkv.weight, "):
        take(run, [], "x*")


# From the files


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("count", [5, 200])
def test_once_prints_one_plain_table(tmp_path: Path, count: int, width: int) -> None:
    folder = write_run(tmp_path / "mine", made_run(count, 30))
    text = once(folder, width)
    assert "\x1b" not in text
    assert max(map(cells.cell_len, text.splitlines())) <= width
    assert text.startswith("mine  running\nstep 291 · 5 steps/s · last record ")
    assert "\nloss 1.001 · test_accuracy 0.5695\n" in text
    lines = text.splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("layer ")) + 1
    rows = lines[first : next(k for k, line in enumerate(lines) if line.startswith("update "))]
    assert len(rows) == count
    assert once(folder, width, layers="attn.out.bias").count("attn.out.bias") == max(1, count // 8)


def test_ascii_terminals_get_ascii_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "größe", made_run(5, 30))
    text = once(folder, 80, "ascii")
    assert text.isascii()
    assert "gr??e  running" in text
    row = row_of(text, "attn.qkv") if "\nattn.qkv " in text else row_of(text, "encoder.blocks.0.attn.qkv")
    assert set(row.split()[1]) <= set(ASCII.blocks)


def test_a_torn_last_line_is_overlooked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "mine", Run("r", {}, (run := made_run(5, 30)).layers, run.history))
    whole = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(whole[:-200])
    assert "step 281 " in once(folder)
    view = View(folder)
    assert view.shot is not None and view.shot.step == 281
    (folder / "records.jsonl").write_bytes(whole)
    view.refresh()
    assert view.shot.step == 291


def test_a_run_that_grows_is_followed_until_it_is_done(tmp_path: Path) -> None:
    run = made_run(5, 30)
    folder = write_run(tmp_path / "mine", Run("r", {}, run.layers, History(run.history.layers)))
    view = View(folder)
    assert [line.plain for line in view.lines(80, 24, UNICODE)] == ["mine  starting", "waiting for the first record"]
    lines = record_lines(run, 1.0)
    for count in (2, 3, 31):  # the key line, and so many records
        (folder / "records.jsonl").write_text("".join(lines[: 1 + count - 1]))
        view.refresh()
        assert view.shot is not None and view.shot.step == 1 + 10 * (count - 2)
    assert not view.ended
    (folder / "DONE").touch()
    view.refresh()
    assert view.ended
    assert view.lines(80, 24, UNICODE)[0].plain == "mine  finished"


def test_a_run_without_records_file_is_waited_for(tmp_path: Path) -> None:
    run = made_run(5, 3)
    folder = write_run(tmp_path / "mine", run)
    (folder / "records.jsonl").unlink()
    assert "waiting for the first record" in once(folder)


def comparison(folder: Path, *names: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "layerpace compare"}))
    for k, name in enumerate(names):
        made = write_run(folder / "runs" / name, made_run(5, 4 + k), done=True)
        for file in made.iterdir():
            os.utime(file, (1e9 + k, 1e9 + k))
    return folder


def test_of_several_runs_the_one_written_last_is_shown(tmp_path: Path) -> None:
    folder = comparison(tmp_path / "out", "b-first", "c-second", "a-last")
    text = once(folder)
    assert text.startswith("a-last  finished\n")
    assert "also here: b-first, c-second  (--run NAME)" in text
    assert once(folder, run="c-second").startswith("c-second  finished\n")
    view = View(folder)
    assert not view.ended  # the comparison goes on
    assert View(folder, run="c-second").ended
    write_run(folder / "runs" / "d-new", made_run(5, 9))
    view.refresh()
    assert view.lines(100, None, UNICODE)[0].plain == "d-new  running"
    (folder / "runs" / "d-new" / "DONE").touch()
    (folder / "results.json").write_text("{}")
    view.refresh()
    assert view.ended


def test_a_comparison_without_runs_yet_is_waited_for(tmp_path: Path) -> None:
    assert once(comparison(tmp_path / "out")) == "waiting for the first run\n"


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        cli.dispatch(["watch", *arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def test_bad_requests_are_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "mine", made_run(5, 4))
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((str(tmp_path / "nowhere"),), "nowhere is not there"),
        ((str(folder / "run.json"),), "run.json is not a folder"),
        ((str(tmp_path / "empty"),), "no recorded run in"),
        ((str(folder), "--run", "x"), "no run 'x' in"),
        ((str(folder), "--layers", "conv", "--once"), "no layer of mine matches 'conv'"),
        ((str(folder), "--every", "0"), "--every 0: must be from 0.1 to 3600 seconds"),
        ((str(folder), "--sort", "name"), "--sort"),
    ):
        status, out, err = here(capsys, *arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err and err.count("\n") == 1


def test_a_pipe_gets_one_whole_table_without_control_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "mine", made_run(120, 4))
    status, out, err = here(capsys, str(folder))
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.startswith("mine  running")
    assert "more layers" not in out
    assert out.count(".attn.qkv.bias ") == 15


def test_a_missing_rich_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(
        ImportError,
        match=r"^layerpace watch needs rich: pip .*, or in a clone pip .*'\.\[report\]'$",
    ):
        watch(tmp_path)


def in_terminal(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """`layerpace watch` on a terminal of 24 x 80, and the terminal's other end."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    env |= {
        "TERM": "xterm",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), env.get("PYTHONPATH", "")]),
        "PYTHONIOENCODING": "utf-8",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "layerpace", "watch", str(folder), "--every", "0.1"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal: int, wanted: bytes, seconds: float = 30.0) -> bytes:
    """What the terminal has shown, up to the wanted text; of nothing: to the end."""
    import select

    seen, end = b"", time.monotonic() + seconds
    while (not wanted or wanted not in seen) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    assert wanted in seen, seen[-500:]
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("ending", ["done", "SIGINT", "SIGTERM"])
def test_live_in_a_terminal(tmp_path: Path, ending: str) -> None:
    run = made_run(5, 30)
    folder = write_run(tmp_path / "mine", Run("r", {}, run.layers, History(run.history.layers)))
    process, terminal = in_terminal(folder)
    try:
        assert b"\x1b[?1049h" in read_until(terminal, b"waiting for the first record")  # the second screen
        (folder / "records.jsonl").write_text("".join(record_lines(run, 1.0)))
        read_until(terminal, b"step 291")
        if ending == "done":
            (folder / "DONE").touch()
        else:
            process.send_signal(getattr(signal, ending))
        rest = read_until(terminal, b"")
        _, back, after = rest.partition(b"\x1b[?1049l")
        assert back  # on the first screen
        assert (b"angle in radians" in after) == (ending != "SIGTERM")  # the last table stays
        assert b"Traceback" not in rest
        assert process.wait(10) == (143 if ending == "SIGTERM" else 0)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
