"""What a spec means, and what is said of one that means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.errors import UsageError
from layerpace.lab.sweep import grid
from layerpace.lab.sweep.objective import Objective
from layerpace.lab.sweep.runner import Runner, resolve
from layerpace.lab.sweep.spec import RUNNER, check, load

from .helpers import ROOT, write_runner

TOML = """
objective = "loss"
mode = "min"
[base]
steps = 5
[grid]
method = ["lamb", "lars"]
lr = [0.1, 0.2]
[[runs]]
method = "sgd"
seed = [1, 2]
[[runs]]
method = "adam"
steps = 7
"""


def of(**table: Any) -> list[dict[str, Any]]:
    return [dict(request) for request in check(table, "spec", "spec.toml").requests]


def test_a_toml_file_becomes_runs_the_last_axis_fastest_and_single_runs_beside(tmp_path: Path) -> None:
    path = tmp_path / "my rates.toml"
    path.write_text(TOML)
    spec = load(str(path))
    assert [tuple(request.values()) for request in spec.requests] == [
        (5, "lamb", 0.1), (5, "lamb", 0.2), (5, "lars", 0.1), (5, "lars", 0.2),
        (5, "sgd", 1), (5, "sgd", 2), (7, "adam"),
    ]  # fmt: skip
    assert spec.requests[4] == {"steps": 5, "method": "sgd", "seed": 1}
    assert (spec.name, spec.runner, spec.kind) == ("my rates", RUNNER, "grid")
    assert spec.objective == Objective("loss", "min")


def test_a_python_function_gives_the_same_mapping_or_runs_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "specs.py"
    path.write_text(
        "def table():\n    return {'base': {'steps': 5}, 'grid': {'lr': [1, 2]}}\n"
        "def runs():\n    return [{'layers': [3, 4]}, {'layers': []}]\n"
    )
    assert load(f"{path}:table").requests == ({"steps": 5, "lr": 1}, {"steps": 5, "lr": 2})
    assert load(f"{path}:runs").requests == ({"layers": [3, 4]}, {"layers": []})
    assert load(f"{path}:runs").name == "runs"


def test_an_axis_of_tables_sets_keys_together() -> None:
    setups = [{"method": "lamb", "lr": 0.01}, {"method": "sgd", "lr": 0.1}]
    found = of(grid={"setup": setups, "seed": [0, 1]})
    assert found == [{**setup, "seed": seed} for setup in setups for seed in (0, 1)]
    with pytest.raises(UsageError, match="lr: is set twice"):
        of(grid={"setup": setups, "lr": [1.0]})


def test_without_grid_and_runs_the_base_is_the_one_run_and_a_run_overrides_it() -> None:
    assert of(base={"lr": 0.1}) == [{"lr": 0.1}]
    assert of(base={"lr": 0.1}, runs=[{"lr": 0.2}]) == [{"lr": 0.2}]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"grids": {}}, r"unknown key 'grids' \(did you mean grid\?\)"),
        ({"grid": {"lr": 0.1}}, r"\[grid\] lr = 0.1: must be a list"),
        ({"grid": {"lr": []}}, "at least one value"),
        ({"grid": {"a": [{"lr": 1}, 2]}}, "either all of its values are tables"),
        ({"base": [1]}, r"base: must be a table: \[base\], got list"),
        ({"runs": {"lr": 1}}, "runs: must be a list of tables"),
        ({"base": {"lr": float("nan")}}, "base lr = nan: must be a finite number"),
        ({"base": {"lr": {1, 2}}}, "base lr = .*must be text, a number"),
        ({"name": "--"}, "name = '--'"),
        ({"runner": "run"}, "runner = 'run': write"),
        ({"search": {"kind": "random"}}, "choose from grid, rates, optuna"),
        ({"mode": "up"}, "mode = 'up'"),
        ({"objective": 3}, "objective = 3"),
        ([], "names no run"),
        ([3], "a run: must be a dict"),
        (7, "must be a dict, or a list of dicts"),
    ],
)
def test_what_is_wrong_is_named(table: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(table, "spec", "spec.toml")


OPTUNA = {"kind": "optuna", "trials": 3, "space": {"lr": [0.1, 0.2]}}


@pytest.mark.parametrize("search", [{"kind": "rates"}, OPTUNA, {"kind": "rates", "objective": "validation_score"}])
def test_a_search_over_trainings_needs_held_out_examples(search: dict[str, Any]) -> None:
    held = {"base": {"validation": 0.1}, "search": search}
    for table in ({"search": search}, {"base": {"validation": 0.0}, "search": search},
                  {**held, "grid": {"validation": [0.1, 0.0]}}):  # fmt: skip
        with pytest.raises(
            UsageError, match=r"spec.toml: \[search\] needs held-out .* add validation = 0.1 to \[base\]"
        ):
            of(**table)
    assert of(**held) == [{"validation": 0.1}]
    assert of(search={**search, "objective": "test_score"}) == [{}]
    assert of(runner="own.py:run", search=search) == [{}]


def test_a_grid_needs_none_and_how_much_to_hold_out_may_be_searched() -> None:
    assert of(grid={"lr": [1, 2]}) == [{"lr": 1}, {"lr": 2}]
    assert of(search={**OPTUNA, "space": {"validation": [0.1, 0.2]}}) == [{}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.toml", "none.toml: No such file"),
        ("bad.toml", "bad.toml: .*line 1"),
        ("rates", "a sweep is a .toml file"),
        ("none.py:runs", "FileNotFoundError"),
        ("bad.py:runs", "ZeroDivisionError: division by zero"),
        ("bad.py:none", "no attribute 'none'"),
    ],
)
def test_files_that_cannot_be_read(own_folder: None, source: str, message: str) -> None:
    Path("bad.toml").write_text("a = = 3")
    Path("bad.py").write_text("def runs(): return 1 / 0")
    with pytest.raises(UsageError, match=message):
        load(source)


def test_a_grid_has_no_keys_of_a_search_and_keeps_runs_of_a_task_together() -> None:
    with pytest.raises(UsageError, match=r"\[search\] trials"):
        grid.make({"kind": "grid", "trials": 3}, [{}], [])
    requests = [{"seed": seed, "data": data} for seed in (0, 1) for data in ("mnist", "digits")]
    asked = grid.make({"kind": "grid"}, requests, []).ask(10)
    assert [(request["data"], request["seed"]) for request in asked] == [
        ("mnist", 0), ("mnist", 1), ("digits", 0), ("digits", 1),
    ]  # fmt: skip


def test_a_runner_without_resolve_puts_its_source_into_the_config(tmp_path: Path) -> None:
    reference = write_runner(tmp_path)
    request = {"n": 3, "seed": 1}
    first = resolve(Runner.of(reference), request)
    assert first.config["n"] == 3 and first.config["runner"]["function"] == "run"
    assert first.name.startswith("run-s1-") and len(first.name.rpartition("-")[2]) == 12
    path = tmp_path / "runner.py"
    (tmp_path / "elsewhere").mkdir()
    assert resolve(Runner.of(write_runner(tmp_path / "elsewhere")), request).name == first.name
    path.write_text(path.read_text() + "\n# another version\n")
    assert resolve(Runner.of(reference), request).name != first.name


def test_open_threads_are_no_part_of_the_digest_and_given_ones_are() -> None:
    runner = Runner.of(RUNNER)
    request = {"data": "digits", "method": "lamb:clip=1", "lr": 0.01, "device": "cpu", "checkpoint_seconds": 3.0}
    left_open, given = resolve(runner, request), resolve(runner, {**request, "threads": 3})
    assert left_open.open and "threads" not in left_open.config and left_open.threads == 1  # what digits does best with
    assert not given.open and given.config["threads"] == 3
    assert left_open.name != given.name
    assert left_open.name.startswith("lamb-clip-1-lr0.01-s0-")
    assert left_open.options == {"checkpoint_seconds": 3.0} and "checkpoint_seconds" not in left_open.config
    same = resolve(runner, {**request, "seed": 0, "eval_size": 2000, "checkpoint_seconds": 9.0})
    assert same.name == left_open.name


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"method": "lamb", "learning_rate": 1}, "unknown option 'learning_rate'"),
        ({"steps": 0}, "--steps 0"),
        ({"method": "lamp"}, "lamp"),
        ({"data": "nothing"}, "nothing"),
        ({"lr": "high"}, "--lr 'high'"),
        ({"threads": 0}, "threads 0"),
    ],
)
def test_options_of_a_training_are_checked(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Runner.of(RUNNER), request_)


def test_runners_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    for reference, message in (
        (f"{tmp_path}/none.py:run", "there is no file"),
        (f"{tmp_path}/broken.py:run", "ModuleNotFoundError"),
        (write_runner(tmp_path).replace(":run", ":fun"), "has no function 'fun'"),
    ):
        with pytest.raises(UsageError, match=message):
            Runner.of(reference)


def test_an_objective_finds_its_figure_or_says_what_there_is() -> None:
    training = {"status": "done", "test_score": 0.8, "validation_score": None, "layers": ["a"]}
    assert Objective().value(training) == 0.8
    assert Objective().value({**training, "validation_score": 0.7}) == 0.7
    assert Objective().value({**training, "status": "diverged"}) is None
    assert Objective("test_score").value({"test_score": None}) is None
    assert Objective("loss", "min").merit({"loss": 2}) == -2.0
    assert Objective("loss", "min").merit(None) == -float("inf")
    with pytest.raises(UsageError, match="no loss: objective must be one of test_score"):
        Objective("loss").value(training)
    with pytest.raises(UsageError, match="not a number"):
        Objective("layers").value(training)


def test_the_example_is_what_its_comments_say() -> None:
    spec = load(str(ROOT / "docs/examples/sweep.toml"))
    runner = Runner.of(spec.runner)
    assert len({resolve(runner, request).name for request in spec.requests}) == 14
