"""The search for rates of the layer-rotation paper, on made-up responses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from layerpace.lab.errors import UsageError
from layerpace.lab.sweep.cells import key
from layerpace.lab.sweep.rates import make

Response = Callable[[Mapping[str, Any]], "float | None"]
NAN = float("nan")


def peak(power: float) -> Response:
    """Best at 3^power."""
    return lambda request: 1 - 0.1 * abs(math.log(request["lr"], 3) - power)


def result(score: float | None) -> dict[str, Any] | None:
    """What DONE holds: nan means that the run diverged, None that it failed."""
    if score is None:
        return None
    well = math.isfinite(score)
    return {"status": "done" if well else "diverged", "test_score": score if well else None, "validation_score": None}


def drive(
    searcher: Any, response: Response, room: int = 100, seed: int | None = None, finished: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """All that it has run, as a driver does: what is finished is told at once. With a seed results come late and in a
    random order."""
    shuffled = random.Random(seed)
    asked: list[dict[str, Any]] = []
    ran: list[dict[str, Any]] = []
    running: list[dict[str, Any]] = []
    while True:
        more = searcher.ask(room - len(running))
        assert len(more) <= room - len(running)
        asked += more
        for request in more:
            if key(request) in finished:
                searcher.tell(request, result(response(request)))
            else:
                ran.append(request)
                running.append(request)
        if not running and not more:
            assert searcher.finished()
            assert searcher.total() == len(asked) == len({key(request) for request in asked})
            return ran
        count = len(running) if seed is None else shuffled.randint(0, len(running))
        if seed is not None:
            shuffled.shuffle(running)
        for request in running[:count]:
            searcher.tell(request, result(response(request)))
        running = running[count:]


def powers(asked: Sequence[Mapping[str, Any]]) -> list[float]:
    """Rates as powers of 3, in the order asked."""
    return [round(math.log(request["lr"], 3), 3) for request in asked]


@pytest.mark.parametrize(
    ("optimum", "expected"),
    [
        (-3.0, [-4, -3, -2, -3.5, -2.5]),
        (-1.0, [-4, -3, -2, -1, 0, -1.5, -0.5]),
        (-6.2, [-4, -3, -2, -5, -6, -7, -6.5, -5.5]),
    ],
    ids=["inside", "above", "below"],
)
def test_it_extends_at_the_ends_and_then_refines(optimum: float, expected: list[float]) -> None:
    searcher = make({"kind": "rates"}, [{"data": "mnist"}], [])
    asked = drive(searcher, peak(optimum))
    assert powers(asked) == expected
    assert all(request["data"] == "mnist" for request in asked)
    ((options, rate, merit),) = searcher.best()
    nearest = min(expected, key=lambda power: abs(power - optimum))
    assert (
        options == {"data": "mnist"}
        and rate == pytest.approx(3**nearest)
        and merit == pytest.approx(peak(optimum)({"lr": rate}))
    )


def test_it_stops_extending_at_the_limit() -> None:
    rising: Response = lambda request: request["lr"]  # noqa: E731
    assert powers(drive(make({"limit": 2}, [{}], []), rising)) == [-4, -3, -2, -1, 0, -0.5]
    assert powers(drive(make({"limit": 0, "refine": False}, [{}], []), rising)) == [-4, -3, -2]


def test_a_rate_is_the_same_whichever_way_leads_to_it() -> None:
    asked = drive(make({}, [{}], []), peak(-6.2)) + drive(make({}, [{}], []), peak(1))
    assert {request["lr"] for request in asked} == {float(f"{3**power:.12g}") for power in powers(asked)}


def test_own_rates_and_factor() -> None:
    asked = drive(make({"rates": [1, 0.1], "factor": 10, "refine": False, "mode": "min"}, [{}], []), lambda r: r["lr"])
    assert [request["lr"] for request in asked] == [0.1, 1, 0.01, 0.001, 1e-4, 1e-5, 1e-6, 1e-7]


def test_equal_scores_end_the_search_unless_all_diverged() -> None:
    settings = {"refine": False, "limit": 3}
    assert powers(drive(make(settings, [{}], []), lambda _: 0.5)) == [-4, -3, -2]
    ends: Response = lambda request: 0.1 if abs(request["lr"] - 3**-3) < 1e-6 else 0.5  # noqa: E731
    assert powers(drive(make({**settings, "limit": 1}, [{}], []), ends)) == [-4, -3, -2, -5]
    assert powers(drive(make(settings, [{}], []), lambda _: NAN)) == [-4, -3, -2, -5, -6, -7]


def test_a_diverged_run_is_the_worst_and_failures_alone_end_the_search() -> None:
    response: Response = lambda request: NAN if request["lr"] > 3**-4.4 else request["lr"]  # noqa: E731
    assert powers(drive(make({}, [{}], []), response)) == [-4, -3, -2, -5, -6, -5.5, -4.5]
    assert powers(drive(make({}, [{}], []), lambda _: None)) == [-4, -3, -2]
    # one seed that failed is as bad as all
    failing: Response = lambda request: None if request["seed"] == 1 and request["lr"] > 3**-2.6 else 0.1  # noqa: E731
    searcher = make({"refine": False}, [{"seed": 0}, {"seed": 1}], [])
    assert powers(drive(searcher, failing)) == [-4, -4, -3, -3, -2, -2]


def test_the_mean_over_seeds_decides() -> None:
    # seed 0 alone would choose the lowest rate, and go on from there
    scores = {0: {-4: 0.9, -3: 0.8, -2: 0.1}, 1: {-4: 0.1, -3: 0.8, -2: 0.2}}
    searcher = make({"refine": False}, [{"seed": seed} for seed in (0, 1)], [])
    asked = drive(searcher, lambda r: scores[r["seed"]][round(math.log(r["lr"], 3))])
    assert len(asked) == 6 and powers(asked) == [-4, -4, -3, -3, -2, -2]
    assert searcher.best()[0][1:] == (pytest.approx(3**-3), pytest.approx(0.8))


def test_each_combination_of_the_grid_has_a_search_of_its_own() -> None:
    requests = [{"method": method, "seed": seed} for method in ("layca", "lamb") for seed in (0, 1)]
    optimum = {"layca": -3, "lamb": -5}
    searcher = make({"refine": False}, requests, [])
    asked = drive(searcher, lambda r: peak(optimum[r["method"]])(r))
    found = {method: sorted({p for r in asked if r["method"] == method for p in powers([r])}) for method in optimum}
    assert found == {"layca": [-4, -3, -2], "lamb": [-6, -5, -4, -3, -2]}
    assert {options["method"]: rate for options, rate, _ in searcher.best()} == {
        method: pytest.approx(3.0**power) for method, power in optimum.items()
    }


def test_along_an_axis_the_rate_between_differing_neighbours_is_tried_for_both() -> None:
    """Alphas out of order in the grid, optima 3^-3, 3^-2, 3^-2, 3^1: one pair differs by 3, one by more."""
    optimum = {0.0: -3, 0.2: -2, 0.4: -2, 0.6: 1}
    requests = [{"alpha": alpha, "seed": 0} for alpha in (0.4, 0.0, 0.6, 0.2)]
    searcher = make({"along": "alpha"}, requests, [])
    asked = drive(searcher, lambda r: peak(optimum[r["alpha"]])(r))
    half = sorted((r["alpha"], p) for r in asked for p in powers([r]) if p % 1)
    assert half == [(0.0, -2.5), (0.2, -2.5)]


def test_along_takes_the_order_of_the_grid_where_values_are_no_numbers() -> None:
    optimum = {"c": -3, "a": -2, "b": -4}
    searcher = make({"along": "method"}, [{"method": method} for method in "cab"], [])
    asked = drive(searcher, lambda r: peak(optimum[r["method"]])(r))
    assert sorted((r["method"], p) for r in asked for p in powers([r]) if p % 1) == [("a", -2.5), ("c", -2.5)]


@pytest.mark.parametrize("search", [{}, {"along": "alpha"}, {"limit": 1}], ids=str)
def test_the_runs_do_not_depend_on_the_order_of_results(search: dict[str, Any]) -> None:
    requests = [{"alpha": alpha, "seed": seed} for alpha in (0.0, 0.3, 0.6) for seed in (0, 1)]

    def response(request: Mapping[str, Any]) -> float:
        return NAN if request["lr"] > 0.5 else peak(-4 + 5 * request["alpha"])(request) + 0.003 * request["seed"]

    plain = {key(request) for request in drive(make(search, requests, []), response)}
    for seed in range(8):
        asked = drive(make(search, requests, []), response, room=1 + seed, seed=seed)
        assert len(asked) == len(plain) and {key(request) for request in asked} == plain


@pytest.mark.parametrize("told", [1, 4, 7, 14])
def test_a_search_that_starts_again_runs_what_is_missing_and_nothing_else(told: int) -> None:
    requests = [{"seed": 0}, {"seed": 1}]
    asked = drive(make({}, requests, []), peak(-1))
    again = make({}, requests, [])
    for request in reversed(asked[:told]):
        again.tell(request, result(peak(-1)(request)))
    again.tell({"lr": 0.5, "seed": 7}, result(0.1))  # of another search
    again.tell({"seed": 0}, result(0.1))
    finished = {key(request) for request in asked[:told]}
    rest = drive(again, peak(-1), finished=sorted(finished))
    assert len(asked) == 14 and {key(r) for r in rest} == {key(r) for r in asked} - finished


def test_what_was_asked_for_is_not_asked_again_while_it_runs() -> None:
    searcher = make({}, [{"seed": 0}], [])
    first = searcher.ask(2)
    assert powers(first) == [-4, -3] and powers(searcher.ask(2)) == [-2] and list(searcher.ask(2)) == []
    assert not searcher.finished() and searcher.total() == 3


def test_the_objective_can_be_named() -> None:
    searcher = make({"objective": "loss", "mode": "min", "refine": False}, [{}], [])
    for request in searcher.ask(9):
        searcher.tell(request, {"loss": request["lr"], "test_score": request["lr"]})
    (extension,) = searcher.ask(9)
    assert powers([extension]) == [-5]
    with pytest.raises(UsageError, match="no loss: objective must be one of test_score"):
        searcher.tell(extension, {"test_score": 0.5})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"rates": 0.1}, r"rates = 0.1: must be two or more numbers above 0"),
        ({"rates": [0.1]}, "rates"),
        ({"rates": [0.1, -1]}, "rates"),
        ({"rates": [0.1, True]}, "rates"),
        ({"factor": 1}, r"factor = 1: must be a number above 1"),
        ({"limit": -1}, r"limit = -1: must be a whole number, 0 or more"),
        ({"limit": 1.5}, "limit"),
        ({"refine": "yes"}, "refine = 'yes': must be true or false"),
        ({"along": 3}, "along = 3"),
        ({"along": "lr"}, "lr is what is searched for"),
        ({"along": "beta"}, "along = 'beta': is no axis of the grid"),
        ({"rate": [1, 2]}, "rate: there is no such key for kind = 'rates': choose from kind, objective"),
        ({"mode": "up"}, "mode = 'up'"),
    ],
)
def test_a_bad_spec_is_said(search: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(search, [{"alpha": 0.1}], [])


def test_a_grid_with_rates_of_its_own_is_refused() -> None:
    with pytest.raises(UsageError, match=r"lr = 0.1: \[search\] finds lr"):
        make({}, [{"lr": 0.1}], [])
    with pytest.raises(UsageError, match="there is no run"):
        make({}, [], [])
