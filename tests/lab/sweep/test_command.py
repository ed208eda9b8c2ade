"""`layerpace sweep` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerpace import cli
from layerpace.lab.records import Lock
from layerpace.lab.sweep.runner import Runner
from layerpace.lab.sweep.spec import load

from .helpers import ROOT, run, said, write_runner

SPEC = """
name = "small"
[base]
data = "digits"
steps = 20
eval_every = 10
validation = 0.1
[grid]
method = ["adam", "lamb:clip=1"]
lr = [0.003, 0.01]
"""


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command within this process."""
    try:
        cli.dispatch(["sweep", *arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def test_a_sweep_of_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = SPEC.replace("[0.003, 0.01]", "[0.003]")
    (tmp_path / "small.toml").write_text(two)
    status, out, err = run(tmp_path, "small.toml", "--jobs", "2")
    assert status == 0, err
    assert "2 runs: 2 done" in out and "validation_score" in out and "lamb:clip=1" in out
    folders = sorted((tmp_path / "runs/sweep-small/runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "DONE"))
        assert folder.name.startswith(("adam-lr0.0", "lamb-clip-1-lr0.0")) and config["threads"] == 1
        assert result["status"] == "done" and 0 < result["validation_score"] <= 1
        assert len((folder / "curve.jsonl").read_text().splitlines()) == 3
    (tmp_path / "small.toml").write_text(SPEC.replace("[0.003, 0.01]", "[0.003, 1e-9]"))
    status, out, _ = here(capsys, "small.toml", "--dry-run")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["finished", "to"] * 2
    assert len(list((tmp_path / "runs/sweep-small/runs").iterdir())) == 2
    again = sorted((folder / "DONE").stat().st_mtime_ns for folder in folders)
    (tmp_path / "small.toml").write_text(two)
    status, out, err = here(capsys, "small.toml", "--json")
    document = json.loads(out)
    assert (status, document["before"], document["done"], err) == (0, 2, 0, "")
    assert {entry["request"]["method"] for entry in document["runs"]} == {"adam", "lamb:clip=1"}
    assert sorted((folder / "DONE").stat().st_mtime_ns for folder in folders) == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps", "stepz"), "unknown option 'stepz' (did you mean steps?)"),
        (("[grid]", "[grit]"), "unknown key 'grit' (did you mean grid?)"),
        (('"adam"', '"adma"'), "adma"),
        (("steps = 20", "steps = -1"), "--steps -1: must be at least 1"),
        (("[0.003, 0.01]", '["high"]'), "--lr 'high': must be a number"),
        (('[grid]', '[search]\nkind = "grid"\ntrials = 3\n[grid]'), "[search] trials"),
        (('name = "small"', 'runner = "no_such_module:run"'), "runner = 'no_such_module:run': ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_a_bad_spec_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    assert change[0] in SPEC
    Path("bad.toml").write_text(SPEC.replace(*change))
    status, out, err = here(capsys, "bad.toml")
    assert (status, out) == (2, "") and err.startswith("layerpace: ") and err.count("\n") == 1
    assert message in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", "0"), "--jobs 0: must be at least 1"),
        (("--retries", "-1"), "--retries -1"),
        (("--address", "auto"), "--address auto: goes with --executor ray"),
        (("--executor", "slurm"), "slurm"),
        (("--out", "a-file"), "is a file, not a folder"),
        (("--out", "compared"), "holds a comparison or a single run"),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    Path("small.toml").write_text(SPEC)
    Path("a-file").touch()
    Path("compared").mkdir()
    Path("compared/config.json").write_text("{}")
    status, _, err = here(capsys, "small.toml", *arguments)
    assert status == 2 and message in err
    assert not Path("runs").exists() and [*Path("compared").iterdir()] == [Path("compared/config.json")]


def test_the_first_run_of_a_search_is_checked_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    table = {"base": {"data": "digits", "validation": 0.1}, "search": {"kind": "rates"}}
    bad = table | {"base": {"steps": 0, "validation": 0.1}}
    Path("hill.py").write_text(f"def good(): return {table!r}\ndef bad(): return {bad!r}\n")
    status, out, _ = here(capsys, "hill.py:good", "--dry-run")
    assert status == 0 and "1 run to begin with; [search] kind = 'rates' finds the others" in out
    status, _, err = here(capsys, "hill.py:bad")
    assert status == 2 and "--steps 0" in err and not Path("runs").exists()


def test_two_sweeps_do_not_share_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.toml").write_text(SPEC)
    Path("out").mkdir()
    lock = Lock(Path("out/.lock"))
    status, _, err = here(capsys, "small.toml", "--out", "out")
    lock.release()
    assert status == 1 and "out is in use by another layerpace process" in err and not Path("out/runs").exists()


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = here(capsys, "--help")
    assert status == 0 and "layerpace sweep rates.toml --dry-run" in out and "--keep-failed" in out


def test_the_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{ROOT}/docs/examples/own_sweep.py:sweep"
    status, out, _ = here(capsys, source, "--dry-run")
    assert status == 0 and "4 runs, in " in out
    spec = load(source)
    runner = Runner.of(spec.runner)
    losses = [runner.function(runner.config(request), Path())["loss"] for request in spec.requests]
    assert len(set(losses)) == 4 and min(losses) < 5 and spec.objective.mode == "min"


def test_a_failed_run_sets_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_runner(tmp_path)
    log = tmp_path / "log"
    Path("one.toml").write_text(f'runner = "{reference}"\n[base]\nlog = "{log}"\nn = 1\nraises = 1\n')
    status, out, err = here(capsys, "one.toml")
    assert status == 3 and "1 run failed: the traceback is in FAILED in its folder" in err
    assert "failed: " in out and "was to fail" in out and said(log, "begin") == [1]


def test_a_dry_run_imports_nothing_that_the_spec_names(capsys: pytest.CaptureFixture[str]) -> None:
    trap = "from pathlib import Path\nPath('sprung').touch()\ndef run(config, folder): return {}\n"
    Path("trap.py").write_text(trap)
    grid = "[base]\nvalidation = 0.1\n[grid]\nseed = [0, 1]\n"
    search = "[search]\nkind = 'optuna'\ntrials = 3\nstorage = 'sqlite:///study.db'\n[search.space]\nlr = [0.1, 0.2]\n"
    for text in (
        f'runner = "trap.py:run"\n{grid}',
        f'runner = "trap:run"\n{grid}',
        f'runner = "os:system"\n{grid}',
        grid.replace("[base]", '[base]\ntask = "trap.py:run"'),
        'runner = "trap.py:run"\n' + grid + search,
    ):
        Path("spec.toml").write_text(text)
        status, out, err = here(capsys, "spec.toml", "--dry-run")
        assert (status, err) == (0, "") and "is code that a dry run does not import" in out and "to make" in out
    assert sorted(path.name for path in Path().iterdir()) == ["spec.toml", "trap.py"]
    Path("spec.toml").write_text(grid.replace("[base]", '[base]\ntask = "trap.py:run"\nstepz = 3'))
    status, _, err = here(capsys, "spec.toml", "--dry-run")
    assert status == 2 and "unknown option 'stepz'" in err


def test_a_dry_run_finds_what_a_runner_of_ones_own_has_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_runner(tmp_path)
    text = f'runner = "{reference}"\n[base]\nlog = "{tmp_path / "log"}"\n[grid]\nn = [1]\n'
    Path("own.toml").write_text(text)
    assert here(capsys, "own.toml")[0] == 0
    Path("own.toml").write_text(text.replace("[1]", "[1, 2]"))
    status, out, _ = here(capsys, "own.toml", "--dry-run")
    assert status == 0 and [line.split()[0] for line in out.splitlines()[:2]] == ["finished", "to"]


def test_more_runs_than_a_sweep_may_have_are_counted_and_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    axes = "\n".join(f"a{number} = {list(range(10))}" for number in range(10))
    Path("huge.toml").write_text(f"[grid]\n{axes}\n")
    status, _, err = here(capsys, "huge.toml", "--dry-run")
    assert status == 2 and "[grid] names 10,000,000,000 runs: at most 100,000" in err
    Path("deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    status, _, err = here(capsys, "deep.toml")
    assert status == 2 and "nested too deep" in err
    Path("wide.toml").write_text(f"[base]\nseed = {10**400}\n")
    status, _, err = here(capsys, "wide.toml", "--dry-run")
    assert status == 2 and "a whole number of 1329 bits: must be below 2^63" in err
