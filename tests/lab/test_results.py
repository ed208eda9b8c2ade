"""One table of many runs: what is found, what is left out, and what other programs read."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import layerpace as lp
from layerpace.cli import dispatch
from layerpace.lab import LabError, UsageError
from layerpace.lab.compare import compare
from layerpace.lab.compare_plan import Request
from layerpace.lab.results import collect, curves, write
from layerpace.lab.results.found import find
from layerpace.lab.results.run_rows import table
from layerpace.lab.results.show import show
from layerpace.lab.tasks import Task

NOW = 1_763_708_400.0  # 2025-11-21 07:00:00 UTC


def lay(folder: Path, **files: Any) -> Path:
    """A run folder: values are JSON, or text as it is; config.json is of NOW, the others of 12.5 s later."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / {"config": "config.json", "request": "request.json", "curve": "curve.jsonl"}.get(name, name)
        if name == "curve":
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        os.utime(path, (NOW, NOW + 12.5 * (name != "config")))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep of four: done, diverged, failed, unfinished."""
    root = tmp_path / "sweep"
    curve = [{"step": 0, "test_score": 0.1, "train_loss": None}, {"step": 10, "test_score": 0.5, "train_loss": 2.0}]
    base = {"method": "lamb", "steps": 20, "options": {"clip": 1, "betas": [0.9, 0.99]}, "nesterov": True}
    done = {"status": "done", "diverged_at": None, "test_score": 0.75, "layers": ["a", "b"]}
    lay(root / "runs" / "a", config={**base, "lr": 1, "seed": 0}, request={}, curve=curve, DONE=done)
    gone = {"status": "diverged", "diverged_at": 7, "test_score": None, "layers": ["a"]}
    lay(root / "runs" / "b", config={**base, "lr": 0.5, "seed": 0}, request={}, DONE=gone)
    trace = "Traceback (most recent call last):\n  File ...\nValueError: no [such] layer\n\n"
    lay(root / "runs" / "c", config={**base, "method": "lars", "lr": 0.25, "seed": 1}, request={}, FAILED=trace)
    lay(root / "runs" / "d", config={**base, "lr": 0.125, "seed": 1}, curve=curve)
    (root / "sweep.json").write_text("{}")
    return root


def test_a_row_a_run(runs: Path) -> None:
    rows = collect([runs])
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["status"] for row in rows] == ["done", "diverged", "failed", "unfinished"]
    assert rows[0] == {
        "folder": str(runs / "runs" / "a"), "name": "a", "status": "done",
        "method": "lamb", "steps": 20, "options.clip": 1, "options.betas": [0.9, 0.99], "nesterov": True,
        "lr": 1, "seed": 0,
        "diverged_at": None, "test_score": 0.75, "layers": ["a", "b"], "train_loss": None,
        "step": 10, "started": "2025-11-21T07:00:00+00:00", "seconds": 12.5, "error": None,
    }  # fmt: skip
    assert rows[1]["diverged_at"] == 7 and rows[1]["test_score"] is None and rows[1]["step"] is None
    assert rows[2]["error"] == "ValueError: no [such] layer"
    assert rows[3]["test_score"] == 0.5 and rows[3]["train_loss"] == 2.0  # the last evaluation
    assert all(list(row) == list(rows[0]) for row in rows)


def test_a_run_that_is_done_has_not_failed(runs: Path) -> None:
    (runs / "runs" / "a" / "FAILED").write_text("OSError: of an earlier attempt")
    assert (collect([runs])[0]["status"], collect([runs])[0]["error"]) == ("done", None)


def test_a_run_may_lie_anywhere(tmp_path: Path) -> None:
    lay(tmp_path / "mine", config={"lr": 1}, DONE={"test_score": 1.0})
    assert (
        [row["name"] for row in collect([tmp_path])]
        == ["mine"]
        == [row["name"] for row in collect([tmp_path / "mine"])]
    )


def test_folders_may_be_given_twice_and_runs_one_by_one(runs: Path) -> None:
    assert [row["name"] for row in collect([runs / "runs" / "d", runs, str(runs / "runs")])] == ["d", "a", "b", "c"]


def test_a_comparison_and_a_monitored_training_land_in_one_table(tmp_path: Path, task: Task, silent: Any) -> None:
    compare(Request(methods=("sgd:lr=0.1", "adam:lr=0.01"), seeds=1, out=tmp_path / "all" / "compared"), task, silent)
    model = torch.nn.Linear(3, 2)
    optimizer = lp.LAMB(model.parameters(), lr=0.01)
    monitor = lp.Monitor(model, optimizer, every=2, out=tmp_path / "all" / "mine", settings={"width": {"hidden": 3}})
    for step in range(1, 6):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        if step == 2:
            monitor.log({"loss": 0.5}, step)
    monitor.close()
    rows = collect([tmp_path / "all"])
    assert [row["method"] for row in rows] == ["adam", "sgd", None]
    assert [row["status"] for row in rows] == ["done"] * 3
    assert [row["loss"] for row in rows] == [None, None, 0.5]
    assert rows[2]["name"] == "mine" and rows[2]["width.hidden"] == 3 and rows[2]["step"] == 4
    assert rows[0]["steps"] == rows[0]["step"] == task.steps and 0 <= rows[0]["test_score"] <= 1
    done = json.loads((Path(rows[0]["folder"]) / "DONE").read_text())
    assert rows[0]["test_score"] == done["test_score"] and rows[0]["layers"] == done["layers"]
    assert rows[0]["started"].endswith("+00:00") and 0 < rows[0]["seconds"] < 600
    evaluations = curves([tmp_path / "all"])
    assert [row["step"] for row in evaluations if row["name"] == rows[1]["name"]] == [0, 4, 8, 12]
    mine = [(row["step"], row["loss"]) for row in evaluations if row["name"] == "mine"]
    assert mine == [(2, 0.5), (4, None)]  # the last record has no loss


def test_a_comparison_in_its_default_folder_is_not_one_run(tmp_path: Path) -> None:
    """runs/compare-TASK-HASH/ has a config.json as runs have, and lies where they do."""
    out = tmp_path / "runs" / "compare-digits-1"
    lay(out, config={"kind": "layerpace compare"})
    lay(out / "runs" / "adam-s0", config={"method": "adam"}, DONE={"status": "done"})
    lay(out / "runs" / "lamb-s0", config={"method": "lamb"})
    lay(tmp_path / "runs" / "train-digits-2", config={"method": "lars"})
    assert [run.name for run in find([tmp_path / "runs"], pytest.fail)] == ["adam-s0", "lamb-s0", "train-digits-2"]
    assert [run.name for run in find([out], pytest.fail)] == ["adam-s0", "lamb-s0"]


def test_a_curve_is_a_row_an_evaluation(runs: Path) -> None:
    rows = curves([runs])
    assert rows[:2] == [
        {"folder": str(runs / "runs" / "a"), "name": "a", "step": 0, "test_score": 0.1, "train_loss": None},
        {"folder": str(runs / "runs" / "a"), "name": "a", "step": 10, "test_score": 0.5, "train_loss": 2.0},
    ]
    assert [row["name"] for row in rows] == ["a", "a", "d", "d"]


def test_names_that_are_taken_get_a_prefix(tmp_path: Path) -> None:
    lay(tmp_path / "runs" / "a", config={"lr": 1, "status": "new"}, DONE={"lr": 2, "seconds": 3.0, "step": 4})
    (row,) = collect([tmp_path])
    assert (row["lr"], row["result.lr"], row["config.status"], row["status"]) == (1, 2, "new", "done")
    assert (row["result.seconds"], row["result.step"], row["seconds"]) == (3.0, 4, 12.5)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", '{"lr": 0.', "config.json is no JSON object, or half of one"),
        ("config.json", "[1]", "config.json is no JSON object"),
        ("DONE", "", "DONE is no JSON object, or half of one"),
        ("curve.jsonl", '{"step": 0}\nnull\n', "curve.jsonl has a line that is no JSON object"),
        ("run.json", "{}", "run.json: kind is missing"),
    ],
)
def test_a_broken_folder_is_left_out_with_one_line(runs: Path, name: str, content: str, said: str) -> None:
    (runs / "runs" / "a" / name).write_text(content)
    warnings: list[str] = []
    assert [row["name"] for row in collect([runs], warnings.append)] == ["b", "c", "d"]
    assert len(warnings) == 1 and warnings[0].startswith(f"skipped {runs / 'runs' / 'a'}: ") and said in warnings[0]
    assert "\n" not in warnings[0]


def test_a_folder_that_may_not_be_read_is_left_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops."""
    real = Path.read_text

    def read_text(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "config.json" and path.parent.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    warnings: list[str] = []
    assert [row["name"] for row in collect([runs], warnings.append)] == ["a", "c", "d"]
    assert len(warnings) == 1 and "Permission denied" in warnings[0]


def test_a_line_that_is_being_written_is_not_there_yet(runs: Path) -> None:
    with open(runs / "runs" / "d" / "curve.jsonl", "a") as file:
        file.write('{"step": 20, "test_sc')
    assert collect([runs])[3]["step"] == 10


def test_what_is_no_run_is_passed_over(tmp_path: Path, runs: Path) -> None:
    lay(runs / "model", config={"architectures": ["Bert"]})  # of another library
    lay(runs / ".overwritten" / "runs" / "x", config={"lr": 1}, DONE={})
    lay(runs / "runs" / "a" / "runs" / "y", config={"lr": 1}, DONE={})  # belongs to the run that it lies in
    assert [row["name"] for row in collect([runs])] == ["a", "b", "c", "d"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match=f"there is no run in {tmp_path / 'empty'}, nor beneath"):
        collect([tmp_path / "empty"])
    with pytest.raises(UsageError, match="none does not exist"):
        collect([runs, tmp_path / "none"])
    with pytest.raises(UsageError, match=r"sweep.json is not a folder"):
        collect([runs / "sweep.json"])


def test_parquet_has_a_type_a_column(runs: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = collect([runs])
    write(rows, tmp_path / "all.parquet")
    read = parquet.read_table(tmp_path / "all.parquet")
    assert read.column_names == list(rows[0])
    types = {field.name: field.type for field in read.schema}
    assert types["test_score"] == types["lr"] == types["seconds"] == types["train_loss"] == pyarrow.float64()
    assert types["seed"] == types["steps"] == types["diverged_at"] == types["step"] == pyarrow.int64()
    assert types["nesterov"] == pyarrow.bool_()
    assert types["method"] == types["options.betas"] == types["layers"] == types["error"] == pyarrow.string()
    found = read.to_pylist()
    assert [row["lr"] for row in found] == [1.0, 0.5, 0.25, 0.125]
    assert [row["test_score"] for row in found] == [0.75, None, None, 0.5]
    assert found[0]["options.betas"] == "[0.9, 0.99]" and found[0]["layers"] == '["a", "b"]'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet", "sweep"]  # nothing is left aside


def test_types_do_not_hang_on_what_a_table_happens_to_hold(tmp_path: Path) -> None:
    """Whole rates, no score at all, and no diverged run: the columns are those of any other table."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lay(
        tmp_path / "runs" / "a",
        config={"lr": 1, "width": 3, "mixed": 1, "big": 2**70},
        DONE={"test_score": None, "diverged_at": None},
    )
    lay(
        tmp_path / "runs" / "b",
        config={"lr": 2, "width": 3.5, "mixed": "one", "big": 1},
        DONE={"test_score": None, "diverged_at": None},
    )
    write(collect([tmp_path]), tmp_path / "all.parquet")
    read = parquet.read_table(tmp_path / "all.parquet")
    types = {field.name: field.type for field in read.schema}
    assert types["lr"] == types["test_score"] == types["width"] == pyarrow.float64()
    assert types["diverged_at"] == pyarrow.int64()
    assert read["mixed"].to_pylist() == ["1", "one"] and read["big"].to_pylist() == [str(2**70), "1"]


def test_csv_and_json(runs: Path, tmp_path: Path) -> None:
    rows = collect([runs])
    rows[1]["test_score"] = float("nan")
    write(rows, tmp_path / "all.csv")
    found = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    assert list(found[0]) == list(rows[0]) and len(found) == 4
    assert found[0]["options.betas"] == "[0.9, 0.99]" and found[0]["nesterov"] == "true"
    assert found[0]["lr"] == "1" and found[3]["lr"] == "0.125" and found[1]["test_score"] == "" == found[0]["error"]
    write(rows, tmp_path / "all.json")
    read = json.loads((tmp_path / "all.json").read_text())
    assert read == [rows[0], {**rows[1], "test_score": None}, *rows[2:]]


def test_a_file_that_cannot_be_is_said(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = collect([runs])
    with pytest.raises(UsageError, match=r"all.xlsx: the name must end in .parquet, .csv or .json"):
        write(rows, tmp_path / "all.xlsx")
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        write(rows, tmp_path / "none" / "all.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(UsageError, match=r"dir.csv is a folder"):
        write(rows, tmp_path / "dir.csv")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"a .parquet file needs pyarrow: pip install 'layerpace\[parquet\]'"):
        write(rows, tmp_path / "all.parquet")
    write(rows, tmp_path / "all.csv")  # needs nothing


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `layerpace results`."""
    try:
        dispatch(["results", *map(str, arguments)])
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_prints_what_tells_the_runs_apart(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, runs)
    assert status == 0
    heading = out.splitlines()[1].split()
    assert heading == [
        "name",
        "status",
        "method",
        "lr",
        "seed",
        "diverged_at",
        "test_score",
        "train_loss",
        "step",
        "seconds",
        "error",
    ]
    assert "ValueError: no [such] layer" in out and "0.75" in out


def test_the_command_sorts_and_chooses(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*arguments: str) -> list[str]:
        status, out, err = command(capsys, runs, "--json", *arguments)
        assert status == 0, err
        return ["".join(row.values()) if set(row) == {"name"} else row["name"] for row in json.loads(out)]

    assert names("--sort", "lr") == ["d", "c", "b", "a"]
    assert names("--sort", "test_score") == ["d", "a", "b", "c"]
    assert names("--sort", "test_score", "--descending") == ["a", "d", "b", "c"]
    assert names("--sort", "status") == ["b", "a", "c", "d"]
    assert names("--where", "method=lamb", "seed=1") == ["d"]
    assert names("--where", "lr=1.0") == ["a"]
    assert names("--where", "test_score=") == ["b", "c"]
    assert names("--where", "nesterov=true", "status=done") == ["a"]
    assert names("--where", "lr=high") == []
    assert names("--columns", "name") == ["a", "b", "c", "d"]
    _, out, _ = command(capsys, runs, "--json", "--columns", "lr", "options.*", "name")
    assert [list(row) for row in json.loads(out)] == [["lr", "options.clip", "options.betas", "name"]] * 4


def test_the_command_writes_files(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "curves.csv"
    status, out, err = command(capsys, runs, "--curves", "--where", "name=a", "--out", target)
    assert (status, out) == (0, "") and "2 rows" in err
    assert [row["step"] for row in csv.DictReader(io.StringIO(target.read_text()))] == ["0", "10"]
    (runs / "runs" / "b" / "DONE").write_text("{")
    status, out, err = command(capsys, runs, "--out", tmp_path / "all.json")
    assert status == 0 and len(json.loads((tmp_path / "all.json").read_text())) == 3
    assert err.count("skipped") == 1 and len(err.splitlines()) == 2
    status, out, _ = command(capsys, runs, "--where", "name=none", "--out", tmp_path / "none.csv")
    assert status == 0 and (tmp_path / "none.csv").read_text().startswith("folder,name,status,")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "results needs a folder of runs"),
        (("none",), 2, "none does not exist"),
        ((".", "--sort", "score"), 2, "--sort score: there is no such column; there are folder, name, status"),
        ((".", "--columns", "x*"), 2, "--columns x*: there is no such column"),
        ((".", "--where", "lr"), 2, "--where lr: write KEY=VALUE"),
        ((".", "--where", "rate=1"), 2, "--where rate: there is no such column"),
        ((".", "--descending"), 2, "--descending: say by which column"),
        ((".", "--out", "all.txt"), 2, "must end in .parquet"),
    ],
)
def test_a_bad_request_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, said: str
) -> None:
    found, out, err = command(capsys, *arguments)
    assert (found, out) == (status, "") and said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_a_narrow_terminal_shows_what_matters_and_names_the_rest(runs: Path, width: int) -> None:
    rows, columns = table(find([runs], print))
    stream = io.StringIO()
    show(Console(file=stream, width=width, force_terminal=True, color_system=None), rows, columns, None, False)
    lines = stream.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    heading = lines[1].split()
    assert heading[:2] == ["name", "status"] and ("no room for" in stream.getvalue()) == (width < 140)
    rest = {"name", "status", "test_score", "method", "lr", "seed", "step", "error", "seconds", "diverged_at"} - {
        *heading
    }
    assert all(name in stream.getvalue() for name in rest)
    assert [line.split()[:2] for line in lines[3:7]] == [[row["name"], row["status"]] for row in rows]  # none is broken
