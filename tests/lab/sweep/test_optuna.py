"""Optuna as a searcher: what it asks for, and what it makes of results, new and old."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.sweep.cells import key
from layerpace.lab.sweep.optuna import make

optuna = pytest.importorskip("optuna")
SPACE = {"lr": {"low": 1e-4, "high": 1.0, "log": True}}
Response = Callable[[Mapping[str, Any]], "dict[str, Any] | None"]


def score(value: float) -> dict[str, Any]:
    return {"status": "done", "test_score": value}


def hill(request: Mapping[str, Any]) -> dict[str, Any]:
    """Best at 10^-2 with 1."""
    return score(1 - (math.log10(request["lr"]) + 2) ** 2 - request.get("seed", 0) * 0.01)


def drive(
    searcher: Any, response: Response, room: int = 4, stop: int = 10**6, finished: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What it has run, as a driver does: what is finished is told at once, other results in reverse order; to the end
    or until `stop` of them have been told."""
    asked: list[str] = []
    ran: list[dict[str, Any]] = []
    running: list[dict[str, Any]] = []
    while stop:
        more = searcher.ask(room - len(running))
        assert len(running) + len(more) <= room
        asked += [key(request) for request in more]
        for request in more:
            if key(request) in finished:
                searcher.tell(request, response(request))
            else:
                ran.append(request)
                running.append(request)
        if running:
            request = running.pop()
            searcher.tell(request, response(request))
            stop -= 1
        elif not more:
            assert searcher.finished() and len(asked) == searcher.total()
            break
    assert len(set(asked)) == len(asked)
    return ran


def states(searcher: Any) -> list[str]:
    (study,) = searcher.studies.values()
    return [trial.state.name for trial in study.study.get_trials(deepcopy=False)]


def values(searcher: Any) -> list[float | None]:
    (study,) = searcher.studies.values()
    return [trial.value for trial in study.study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_it_finds_the_top_of_a_hill(sampler: str) -> None:
    searcher = make({"trials": 40, "space": SPACE, "sampler": sampler, "seed": 3}, [{"data": "mnist"}], [])
    assert searcher.total() == 40 and not searcher.finished()
    asked = drive(searcher, hill)
    assert len(asked) == 40 and all(request["data"] == "mnist" for request in asked)
    assert all(1e-4 <= request["lr"] <= 1 for request in asked)
    heights = [hill(request)["test_score"] for request in asked]
    assert max(heights) > 0.98 and states(searcher) == ["COMPLETE"] * 40
    if sampler == "tpe":  # it learns: what it asks for later is better
        assert sum(heights[20:]) / 20 > sum(heights[:10]) / 10 + 0.3


def test_lower_is_better_where_the_spec_says_so() -> None:
    search = {"trials": 40, "space": SPACE, "mode": "min", "objective": "loss"}
    asked = drive(make(search, [{}], []), lambda r: {"loss": -hill(r)["test_score"]})
    losses = [-hill(request)["test_score"] for request in asked]
    assert sum(losses[20:]) / 20 < sum(losses[:10]) / 10 - 0.3


def test_a_trial_is_the_mean_over_seeds() -> None:
    searcher = make({"trials": 3, "space": SPACE}, [{"seed": seed} for seed in (0, 1, 2)], [])
    assert searcher.total() == 9
    asked = drive(searcher, hill, room=2)
    assert [request["seed"] for request in asked] == [0, 1, 2] * 3
    assert len({request["lr"] for request in asked}) == 3
    rates = [request["lr"] for request in asked[::3]]
    assert values(searcher) == pytest.approx([1 - (math.log10(lr) + 2) ** 2 - 0.01 for lr in rates])


def test_each_combination_of_the_grid_has_a_study_of_its_own() -> None:
    searcher = make({"trials": 4, "space": SPACE}, [{"method": "lamb"}, {"method": "lars"}], [])
    asked = drive(searcher, hill)
    assert sorted(request["method"] for request in asked) == ["lamb"] * 4 + ["lars"] * 4
    assert len({request["lr"] for request in asked}) == 8


def test_diverged_and_failed_runs_are_told_apart() -> None:
    def response(request: Mapping[str, Any]) -> dict[str, Any] | None:
        if request["lr"] > 0.1:
            return {"status": "diverged", "test_score": None}
        return None if request["lr"] < 1e-3 else hill(request)

    searcher = make({"trials": 20, "space": SPACE, "sampler": "random"}, [{}], [])
    asked = drive(searcher, response, room=1)
    expected = ["PRUNED" if r["lr"] > 0.1 else "FAIL" if r["lr"] < 1e-3 else "COMPLETE" for r in asked]
    assert states(searcher) == expected and set(expected) == {"PRUNED", "FAIL", "COMPLETE"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_starts_again_counts_what_is_finished_and_goes_on_with_what_was_begun(sampler: str) -> None:
    search = {"trials": 20, "space": SPACE, "sampler": sampler}
    grid = [{"seed": 0}, {"seed": 1}]
    first = make(search, grid, [])
    told: list[tuple[dict[str, Any], Any]] = []
    asked = drive(first, lambda r: told.append((dict(r), hill(r))) or hill(r), room=3, stop=17)
    assert len(told) == 17 and len(asked) == 19  # two are under way
    begun = [request for request in asked if key(request) not in {key(r) for r, _ in told}]
    again = make(search, grid, begun)
    for request, found in told:
        again.tell(request, found)
    for seed in (0, 1):
        again.tell({"seed": seed, "lr": 5.0}, score(9.0))  # outside of the space
    again.tell({"seed": 9, "lr": 0.5}, score(9.0))  # of another grid
    again.tell({"seed": 0}, score(9.0))
    rest = drive(again, hill, finished={key(r) for r, _ in told})
    assert len(rest) == 40 - 17
    assert {key(r) for r in begun} <= {key(r) for r in rest[:4]}
    assert states(again) == ["COMPLETE"] * 20 and len({r["lr"] for r in [*asked, *rest]}) == 20
    expected = {r["lr"]: hill({**r, "seed": 0.5})["test_score"] for r in [*asked, *rest]}
    assert sorted(values(again)) == pytest.approx(sorted(expected.values()))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_killed_makes_the_trials_of_one_that_nothing_stopped(sampler: str) -> None:
    search = {"trials": 16, "space": {**SPACE, "method": ["lamb", "lars"]}, "sampler": sampler}
    grid = [{"seed": 0}, {"seed": 1}]
    whole = drive(make(search, grid, []), hill, room=1)
    for stop in (1, 5, 24, 27):
        first = make(search, grid, [])
        told: list[dict[str, Any]] = []
        drive(first, lambda r: told.append(dict(r)) or hill(r), room=1, stop=stop)  # noqa: B023
        begun = [dict(request) for request in first.ask(1)]
        again = make(search, grid, begun)
        for request in sorted(told, key=key):  # as the folders are found: in another order
            again.tell(request, hill(request))
        rest = drive(again, hill, room=1, finished={key(request) for request in told})
        assert told + rest == whole
        assert states(again) == ["COMPLETE"] * 16


def test_a_search_with_several_runs_at_once_counts_all_that_was_finished_whatever_their_order() -> None:
    search = {"trials": 24, "space": SPACE, "seed": 5}
    first = make(search, [{}], [])
    told: list[dict[str, Any]] = []
    drive(first, lambda r: told.append(dict(r)) or hill(r), room=7, stop=19)
    again = make(search, [{}], [])
    for request in told:
        again.tell(request, hill(request))
    rest = drive(again, hill, room=2, finished={key(request) for request in told})
    assert len(rest) == 24 - 19 and states(again).count("COMPLETE") == 24


def test_the_same_search_asks_for_the_same_runs() -> None:
    search = {"trials": 15, "space": SPACE, "seed": 1}
    one, two = drive(make(search, [{}], []), hill), drive(make(search, [{}], []), hill)
    assert one == two != drive(make({**search, "seed": 2}, [{}], []), hill)


def test_a_small_space_is_tried_in_full_and_once() -> None:
    space = {
        "method": ["lamb", "lars", "layca"],
        "batch_size": {"low": 32, "high": 96, "step": 32},
        "nesterov": [True, False],
    }
    searcher = make({"trials": 100, "space": space, "sampler": "random"}, [{}], [])
    assert searcher.total() == 18
    asked = drive(searcher, lambda r: score(r["batch_size"] / 100))
    assert len(asked) == 18
    assert {request["batch_size"] for request in asked} == {32, 64, 96}
    assert all(type(request["batch_size"]) is int and type(request["nesterov"]) is bool for request in asked)


def test_a_storage_has_the_study_and_is_not_doubled(tmp_path: Path) -> None:
    search = {"trials": 6, "space": SPACE, "storage": f"sqlite:///{tmp_path / 'study.db'}"}
    told: list[tuple[dict[str, Any], Any]] = []
    asked = drive(make(search, [{"data": "mnist"}], []), lambda r: told.append((dict(r), hill(r))) or hill(r), 2, 3)
    begun = [request for request in asked if key(request) not in {key(r) for r, _ in told}]
    again = make(search, [{"data": "mnist"}], begun)
    for request, found in told:
        again.tell(request, found)
    assert len(drive(again, hill, finished={key(r) for r, _ in told})) == 3
    (summary,) = optuna.get_all_study_summaries(search["storage"])
    assert summary.study_name.startswith("data=mnist ")
    study = optuna.load_study(study_name=summary.study_name, storage=search["storage"])
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(complete) == 6 and len({trial.params["lr"] for trial in complete}) == 6
    assert not [trial for trial in study.trials if not trial.state.is_finished()]


def test_a_storage_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    searcher = make({"trials": 6, "space": SPACE, "storage": f"sqlite:///{tmp_path}/none/study.db"}, [{}], [])
    with pytest.raises(LabError, match=r"storage = 'sqlite:.*unable to open"):
        searcher.ask(1)


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"kind = 'optuna' needs optuna: pip install 'layerpace\[optuna\]'"):
        make({"trials": 1, "space": SPACE}, [{}], [])
    assert "optuna" in sys.modules  # by this file: the module itself asks for it only when used


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": SPACE}, "trials = None: must be a whole number from 1"),
        ({"trials": 0, "space": SPACE}, "trials = 0"),
        ({"trials": True, "space": SPACE}, "trials = True"),
        ({"trials": 1, "space": SPACE, "sampler": "grid"}, "sampler = 'grid': choose from tpe, random, cmaes"),
        ({"trials": 1, "space": SPACE, "seed": -1}, "seed = -1"),
        ({"trials": 1, "space": SPACE, "storage": "study.db"}, "storage = 'study.db': must be a URL"),
        ({"trials": 1, "space": SPACE, "direction": "max"}, "direction: there is no such key"),
        ({"trials": 1}, r"\[search.space\] must name what to search for"),
        ({"trials": 1, "space": {"seed": [0, 1]}}, "the score is the mean over seeds"),
        ({"trials": 1, "space": {"lr": 0.1}}, r"lr = 0.1: must be \{low = "),
        ({"trials": 1, "space": {"lr": {"low": 1}}}, "lr = .*: must be"),
        ({"trials": 1, "space": {"lr": {"low": 1, "high": 2, "q": 1}}}, "lr = .*: must be"),
        ({"trials": 1, "space": {"lr": {"low": 2.0, "high": 1.0}}}, "low no more than high"),
        ({"trials": 1, "space": {"lr": {"low": 0, "high": 1.0, "log": True}}}, "low above 0"),
        ({"trials": 1, "space": {"lr": {"low": 1, "high": 9, "step": 0.5}}}, "step must be a whole number above 0"),
        ({"trials": 1, "space": {"lr": {"low": 0.1, "high": 9, "step": 1, "log": True}}}, "without log"),
        ({"trials": 1, "space": {"lr": []}}, r"lr = \[\]: must list different"),
        ({"trials": 1, "space": {"lr": [1, 1]}}, "must list different"),
        ({"trials": 1, "space": {"lr": [[1]]}}, "must list different"),
        ({"trials": 1, "space": {"lr": {"low": 0.0, "high": 10**400}}}, "numbers up to 1e100"),
        ({"trials": 1, "space": {"lr": {"low": -1e308, "high": 1e308}}}, "numbers up to 1e100"),
        ({"trials": 1, "space": {"lr": {"low": 0, "high": 2**60}}}, r"at most 2\^53"),
        ({"trials": 1, "space": {"lr": {"low": 0.0, "high": 1.0, "step": 1e-320}}}, "at most 1,000,000,000 steps"),
        ({"trials": 1, "space": SPACE, "mode": "up"}, "mode = 'up'"),
        ({"trials": 1, "space": {"data": ["mnist"]}}, r"data = 'digits': \[search\] finds data"),
    ],
)
def test_a_bad_spec_is_said(search: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(search, [{"data": "digits"}], [])
