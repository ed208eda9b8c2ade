"""What recipes share: stages, results that are judged and drawn again, the page, and the command."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.lab.sweep.helpers import Here

from layerpace import cli
from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.recipes import page, registry, results
from layerpace.lab.recipes import provenance as making
from layerpace.lab.recipes import reproduce_command as command
from layerpace.lab.recipes.recipe import PAPERS, SCALES, Claim, Finding, Recipe, Scale
from layerpace.lab.recipes.search import Staged
from layerpace.lab.stopping import StopSignals
from layerpace.lab.sweep.driver import Driver, Silent
from layerpace.lab.sweep.runner import Runner
from layerpace.lab.sweep.runs import Runs

from . import toy

SMOKE = Scale("smoke")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The toy, the only recipe that the command knows, whose runs are made in this process."""
    recipe = toy.recipe(tmp_path)
    monkeypatch.setattr(registry, "recipes", lambda: {"toy": recipe})
    monkeypatch.setattr(command, "recipes", lambda: {"toy": recipe})
    monkeypatch.setattr(command, "executor_of", lambda settings, scale: Here())
    monkeypatch.chdir(tmp_path)
    return recipe


def staged(recipe: Recipe, out: Path) -> tuple[Staged, Driver]:
    runs = Runs(out, Runner.of(recipe.runner))
    searcher = Staged(recipe, SMOKE, runs)
    driver = Driver(runs, searcher)
    driver.run(Here(), Silent(), StopSignals())
    return searcher, driver


def test_stages_follow_from_what_is_finished(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path)
    searcher, driver = staged(recipe, tmp_path / "out")
    assert searcher.finished() and searcher.total() == len(driver.runs) == 12
    assert {run.status for run in driver.runs} == {"done"}
    data = recipe.measure(SMOKE, searcher.records)
    assert data["good"] == [6.01, 6.02, 6.03] and data["bad"] == [3.01, 3.02, 3.03]
    again, second = staged(recipe, tmp_path / "out")
    assert {run.status for run in second.runs} == {"before"}
    assert recipe.measure(SMOKE, again.records) == data


def test_a_failed_run_is_an_error_of_the_recipe_alone(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, raises=True)
    with pytest.raises(LabError, match="a run failed: ValueError: was to fail"):
        staged(recipe, tmp_path / "out")


def test_the_command_makes_judges_and_draws(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["reproduce", "toy", "--scale", "smoke"])
    printed = capsys.readouterr().out
    for words in ("good is better", "1 to 2", "+3.00 [3.00, 3.00]", "holds", "12 runs"):
        assert words in " ".join(printed.split()), printed
    folder = Path("runs/reproduce/results/toy")
    document = json.loads((folder / "smoke.json").read_text())
    assert document["findings"][0]["verdict"] == "holds"
    assert document["data"]["good"] == [6.01, 6.02, 6.03]
    assert document["command"] == "layerpace reproduce toy --scale smoke"
    assert document["machines"][0]["cores"] >= 1 and document["runs"] == 12
    assert document["setup"] == "Three seeds." and len(document["commits"]) == 1
    assert 0 <= document["wall_seconds"] <= document["run_seconds"] + 0.2
    assert (folder / "smoke.png").read_bytes().startswith(b"\x89PNG")


def test_kept_data_are_judged_and_drawn_again(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["reproduce", "toy", "--scale", "smoke", "--results", "kept"])
    path = Path("kept/toy/smoke.json")
    document = json.loads(path.read_text())
    document["data"]["good"] = [1.0, 1.1, 1.2]
    path.write_text(json.dumps(document))
    (path.with_suffix(".png")).unlink()
    cli.dispatch(["reproduce", "toy", "--scale", "smoke", "--results", "kept", "--redraw"])
    assert "does not hold" in capsys.readouterr().out
    again = json.loads(path.read_text())
    assert again["findings"][0]["verdict"] == "does not hold"
    assert again["date"] == document["date"] and path.with_suffix(".png").exists()


def test_a_test_that_came_after_results_has_its_date(
    made: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "toy", "--scale", "cpu", "--results", "kept"]
    cli.dispatch(command)
    reworded = dataclasses.replace(toy.CLAIM, says="good is the better one")
    changed, added = (dataclasses.replace(toy.CLAIM, key=key, test="another") for key in (toy.CLAIM.key, "added"))

    def found(*claims: Claim) -> list[str]:
        """Since when the tests stand, once the recipe has these claims and the result was judged again."""
        judge = lambda data: [Finding(claim, "holds", "") for claim in claims]  # noqa: E731
        recipe = dataclasses.replace(made, claims=claims, judge=judge)
        monkeypatch.setattr(registry, "recipes", lambda: {"toy": recipe})
        cli.dispatch([*command, "--redraw"])
        return [one.get("since", "") for one in json.loads(Path("kept/toy/cpu.json").read_text())["findings"]]

    today = datetime.now(UTC).date().isoformat()
    assert found(toy.CLAIM) == [""] and found(reworded) == [""]
    assert found(reworded, added) == ["", today]
    assert found(changed, added) == [today, today]
    assert page.write(Path("kept"), [made]).read_text().count(f"*another* (this test is of {today}") == 2
    capsys.readouterr()


def test_what_was_made_stays_as_it_was(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that makes no run does not put its own date, commit and time in their place."""
    cli.dispatch(["reproduce", "toy", "--scale", "smoke"])
    path = Path("runs/reproduce/results/toy/smoke.json")
    first = json.loads(path.read_text())
    for lines in Path("runs/reproduce/runs").glob("*/made.jsonl"):
        (line,) = map(json.loads, lines.read_text().splitlines())
        later = {**line, "began": line["ended"] + 100, "ended": line["ended"] + 101, "commit": "another"}
        earlier = {**line, "began": 1000, "ended": 1002, "commit": "first"}
        lines.write_text("".join(json.dumps(one) + "\n" for one in (earlier, later)))
    path.unlink()
    cli.dispatch(["reproduce", "toy", "--scale", "smoke"])
    again = json.loads(path.read_text())
    assert again["commits"] == ["first", "another"] and again["run_seconds"] == 12 * 3
    assert 3 <= again["wall_seconds"] <= 3 + first["wall_seconds"] + 0.2  # without the pause between attempts
    assert again["data"] == first["data"] and again["findings"] == first["findings"]


def test_the_page_shows_tests_and_setup_of_the_time(
    made: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.dispatch(["reproduce", "toy", "--scale", "cpu", "--results", "kept"])
    claim = dataclasses.replace(toy.CLAIM, test="another test")
    other = dataclasses.replace(made, claims=(claim,), setup=dict.fromkeys(SCALES, "Another setup."))
    text = page.write(tmp_path / "kept", [other]).read_text()
    assert "Three seeds | on a CPU." in text and toy.CLAIM.test in text
    assert "nother" not in text
    newer = dataclasses.replace(made, version=2)
    monkeypatch.setattr(registry, "recipes", lambda: {"toy": newer})
    before = (tmp_path / "kept/toy/cpu.json").read_bytes()
    with pytest.raises(SystemExit):
        cli.dispatch(["reproduce", "toy", "--redraw", "--results", "kept"])
    assert "measured in another way" in capsys.readouterr().err
    assert (tmp_path / "kept/toy/cpu.json").read_bytes() == before


@pytest.mark.parametrize("function", ["measure", "judge", "draw"])
def test_whatever_a_recipe_raises_the_others_go_on(
    made: Recipe, function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("oops")

    broken = dataclasses.replace(made, name="broken", **{function: fail})
    monkeypatch.setattr(registry, "recipes", lambda: {"broken": broken, "toy": made})
    with pytest.raises(SystemExit) as ended:
        cli.dispatch(["reproduce", "all", "--scale", "smoke"])
    said = capsys.readouterr()
    assert ended.value.code == 3 and "broken: ZeroDivisionError: oops" in said.err and "good is better" in said.out
    assert not Path("runs/reproduce/results/broken").exists()


def test_json_is_one_document(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["reproduce", "all", "--scale", "smoke", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [recipe["recipe"] for recipe in document["recipes"]] == ["toy"]
    cli.dispatch(["reproduce", "--list", "--json"])
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["shows"] == ["figure 1"] and listed["results"] == ["smoke"]


def test_the_page_has_every_claim_and_what_was_written(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    for scale in ("smoke", "cpu"):
        cli.dispatch(["reproduce", "toy", "--scale", scale, "--results", "kept"])
    Path("kept/toy/analysis.md").write_text("It is a toy.\n")
    cli.dispatch(["reproduce", "--page", "--results", "kept"])
    text = Path("kept/README.md").read_text()
    assert "| [figure 1](#toy-cpu) | good is better | 1 to 2 | +3.00 [3.00, 3.00] | holds (cpu) |" in text
    assert "Of 1 claims 1 hold." in text and "It is a toy." in text and "![A toy](toy/cpu.png)" in text
    assert "layerpace reproduce toy --scale cpu" in text and "smoke" not in text.split("## ", 1)[1]


def test_a_page_says_what_has_no_result(made: Recipe, tmp_path: Path) -> None:
    text = page.write(tmp_path / "kept", [made]).read_text()
    assert "no results here yet" in text and "`toy` (figure 1): A toy. Three seeds | on a CPU." in text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "say which recipes"),
        (["tow"], 2, "there is no recipe 'tow' (did you mean toy?)"),
        (["toy", "--scale", "large"], 2, "large"),
        (["toy", "--list", "--page"], 2, "choose one"),
        (["toy", "--jobs", "0"], 2, "must be at least 1"),
        (["toy", "--address", "auto"], 2, "--executor ray"),
        (["toy", "--data-dir", "nowhere"], 2, "there is no such folder"),
        (["toy", "--device", "tpu"], 2, "tpu"),
        (["toy", "--page", "--json"], 2, "--json goes with runs"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    made: Recipe, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.dispatch(["reproduce", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == status and words in said and said.count("\n") == 1
    assert not Path("runs").exists()


def test_a_recipe_that_fails_does_not_stop_the_others(
    made: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    broken = dataclasses.replace(toy.recipe(tmp_path / "b", raises=True), name="broken")
    monkeypatch.setattr(registry, "recipes", lambda: {"broken": broken, "toy": made})
    with pytest.raises(SystemExit) as ended:
        cli.dispatch(["reproduce", "all", "--scale", "smoke"])
    said = capsys.readouterr()
    assert ended.value.code == 3 and "1 recipe failed" in said.err and "was to fail" in said.err
    assert "failed: broken" in said.out and "good is better" in said.out


def test_results_of_another_recipe_are_refused(made: Recipe, tmp_path: Path) -> None:
    cli.dispatch(["reproduce", "toy", "--scale", "smoke", "--results", "kept"])
    (tmp_path / "kept/toy").rename(tmp_path / "kept/other")
    with pytest.raises(LabError, match="another recipe's"):
        results.load(tmp_path / "kept", dataclasses.replace(made, name="other"), "smoke")


def test_findings_must_be_those_of_the_claims(tmp_path: Path) -> None:
    recipe = dataclasses.replace(toy.recipe(tmp_path), judge=lambda data: [])
    with pytest.raises(ValueError, match="not those of its claims"):
        recipe.findings({})
    with pytest.raises(ValueError, match="setup says nothing of paper"):
        dataclasses.replace(recipe, setup={"smoke": "", "cpu": ""})


def test_overlapping_runs_count_once() -> None:
    assert making.covered([(0, 2), (1, 3), (5, 6)]) == 4
    assert making.covered([]) == 0


def test_every_figure_and_table_of_the_papers_has_a_recipe() -> None:
    known = registry.recipes()
    shown = {paper: {item for r in known.values() if r.paper == paper for item in r.shows} for paper in PAPERS}
    assert {"figure 1", "figure 2"} <= shown["percentdelta"]
    assert sum(item.startswith("section 6.1") for item in shown["percentdelta"]) == 3
    figures = {f"figure {number}" for number in ("1", "2a", "2b", *range(3, 13))}
    assert figures | {f"table {number}" for number in range(1, 5)} <= shown["rotation"]
    assert {"figure 1", "figure 2", "figure 3", "table 1"} <= shown["lambc"]
    assert shown["overview"]
    for recipe in known.values():
        assert set(recipe.setup) == set(SCALES)


def test_names_of_papers_stand_for_their_recipes() -> None:
    assert {recipe.paper for recipe in registry.chosen(["lambc"])} == {"lambc"}
    assert len(registry.chosen(["all", "lambc"])) == len(registry.recipes())
    with pytest.raises(UsageError, match="there is no recipe"):
        registry.chosen(["lambc", "nothing"])


def test_runs_that_do_not_say_how_they_were_made_count_by_their_files(made: Recipe) -> None:
    cli.dispatch(["reproduce", "toy", "--scale", "smoke"])
    for lines in Path("runs/reproduce/runs").glob("*/made.jsonl"):
        lines.unlink()
    cli.dispatch(["reproduce", "toy", "--scale", "smoke"])
    document = json.loads(Path("runs/reproduce/results/toy/smoke.json").read_text())
    assert document["commits"] == ["unknown"] and len(document["machines"]) == 1 and document["run_seconds"] >= 0
