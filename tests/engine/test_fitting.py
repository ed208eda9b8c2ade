"""State that no longer fits its weight is an error that names the tensor, before anything has moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_differ, assert_same, snapshot

import layerpace as lp

SHAPES = ((4, 3), (5,), (3, 2), (6, 3))
LAST = "scale"  # of the problem's names: every other tensor is stepped before it


def longer(optimizer: Any, p: Any) -> None:
    p.data = torch.cat([p.data, p.data])
    p.grad = torch.ones_like(p)


def longer_than_its_gradient(optimizer: Any, p: Any) -> None:
    p.data = torch.cat([p.data, p.data])


def double(optimizer: Any, p: Any) -> None:
    p.data = p.data.double()
    p.grad = p.grad.double()


def on_another_device(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].to("meta")


def of(name: str, value: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    def change(optimizer: Any, p: Any) -> None:
        optimizer.state[p][name] = value(optimizer.state[p][name])

    return change


def without(name: str) -> Callable[[Any, Any], None]:
    return lambda optimizer, p: optimizer.state[p].pop(name)


Make = Callable[..., Any]
ROWS = {"segments": {LAST: "rows"}}


def nadam(params: Any, **options: Any) -> lp.Layerwise:
    return lp.Layerwise(params, direction="nadam", rule="identity", **options)


# change, what the error says, and the method
CASES: dict[str, tuple[Callable[[Any, Any], None], str, Make, dict[str, Any]]] = {
    "a longer tensor": (longer, "shape", lp.LAMB, {}),
    "a longer tensor, in rows": (longer, "shape", lp.LAMB, ROWS),
    "its gradient is of before": (longer_than_its_gradient, "gradient", lp.LAMB, {}),
    "float64 weights": (double, "float32", lp.LAMB, {}),
    "float64 weights, in rows": (double, "float32", lp.LAMB, ROWS),
    "a moment of another shape": (of("exp_avg", lambda m: m[:1]), "exp_avg", lp.LAMB, {}),
    "one number": (of("exp_avg_sq", lambda m: m.sum()), "exp_avg_sq", lp.LAMB, {}),
    "no tensor": (of("exp_avg", lambda m: 0.0), "float", lp.LAMB, {}),
    "a sparse moment": (of("exp_avg", lambda m: m.to_sparse()), "sparse", lp.LAMB, {}),
    "a sparse moment, in rows": (of("exp_avg", lambda m: m.to_sparse()), "sparse", lp.LAMB, ROWS),
    "a sparse count": (of("step", lambda m: m.to_sparse()), "step", lp.LAMB, {}),
    "a sparse velocity": (of("velocity", lambda m: m.to_sparse()), "velocity", lp.PercentDelta, {}),
    "a rule's number on meta": (of("initial_norm", lambda m: m.to("meta")), "meta", lp.Layca, {}),
    "a rule's number is complex": (of("initial_norm", lambda m: m.cfloat()), "complex", lp.Layca, {}),
    "a moment of another dtype": (of("exp_avg", lambda m: m.half()), "float16", lp.LAMB, {}),
    "a moment on another device": (on_another_device, "meta", lp.LAMB, {}),
    "a number of steps": (of("step", lambda t: 3), "int", lp.LAMB, {}),
    "a negative count": (of("step", lambda t: t - 9), "count of steps, >= 0", lp.LAMB, {}),
    "a negative count in its place": (of("step", lambda t: t.fill_(-9)), "count of steps, >= 0", nadam, {}),
    "negative counts of rows": (of("step", lambda t: t - 9), "count of steps, >= 0", lp.LAMB, ROWS),
    "a count of nan": (of("step", lambda t: t.fill_(math.nan)), "count of steps, >= 0", lp.LAMB, {}),
    "one step count for all rows": (of("step", lambda t: t.reshape(-1)[0]), "step", lp.LAMB, ROWS),
    "a velocity": (of("velocity", lambda v: v[:1]), "velocity", lp.LARS, {"momentum": 0.9}),
    "a rule's memory": (of("initial_norm", lambda x: x[:1]), "initial_norm", lp.Layca, ROWS),
    "no memory of the rule's": (without("initial_norm"), "missing", lp.Layca, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_has_moved(name: str) -> None:
    change, says, make, options = CASES[name]
    problem = Problem(torch.float32, SHAPES)
    optimizer = make(problem.named, lr=0.02, exclude=None, **options)
    problem.train(optimizer, 2)
    problem.set_gradients(2)
    last = problem.params[-1]
    change(optimizer, last)
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=LAST) as error:
            optimizer.step()
        assert says in str(error.value)
        assert_same(snapshot(optimizer), before)


def test_nothing_has_moved_by_a_wrapped_optimizer_either() -> None:
    problem = Problem(torch.float32, SHAPES)
    inner = torch.optim.SGD(problem.named, lr=0.02)
    optimizer = lp.wrap(inner, lp.rules.Rotation(), exclude=None, segments={LAST: "rows"})
    problem.train(optimizer, 2)
    problem.set_gradients(2)
    longer(optimizer, problem.params[-1])
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=LAST):
        optimizer.step()
    assert_same(snapshot(optimizer), before)


def test_what_the_error_says_helps() -> None:
    problem = Problem(torch.float32, SHAPES)
    optimizer = lp.LAMB(problem.named, segments={LAST: "rows"})
    problem.train(optimizer, 2)
    for p in problem.params:
        double(optimizer, p)
    optimizer.load_state_dict(optimizer.state_dict())
    last = problem.params[-1]
    longer(optimizer, last)
    optimizer.state.pop(last)
    before = problem.weights()
    optimizer.step()
    assert_differ(problem.weights(), before)
    assert optimizer.layers[last].count == 12 and float(optimizer.state[last]["step"].max()) == 1


@dataclass(frozen=True)
class Factored(lp.directions.Direction):
    """A direction of a user's, which keeps one number a row and one a column in float64."""

    def state_names(self) -> tuple[str, ...]:
        return ("row", "column")

    def init(self, w: torch.Tensor, one: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: w.new_zeros(w.shape[k], dtype=torch.float64) for k, name in enumerate(self.state_names())}

    def __call__(self, g: Any, w: Any, state: Any, t: Any) -> Any:
        for x, row, column in zip(g, state["row"], state["column"], strict=True):
            row.add_(x.square().mean(1))
            column.add_(x.square().mean(0))
        return g


def test_a_direction_keeps_what_it_likes_unless_layers_must_broadcast_over_it() -> None:
    p = torch.nn.Parameter(torch.ones(4, 3))
    p.grad = torch.ones(4, 3)
    optimizer = lp.Layerwise([("w", p)], direction=Factored(), rule="trust_ratio", lr=0.1, nonfinite="skip")
    for _ in range(2):
        optimizer.step()
    assert optimizer.state[p]["row"].tolist() == [2.0] * 4
    optimizer.state[p]["row"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"'row' of 'w' has shape \(3,\).*needs \(4,\)"):
        optimizer.step()
    cut = lp.Layerwise([("w", p)], direction=Factored(), rule="trust_ratio", lr=0.1, segments={"w": 2})
    with pytest.raises(RuntimeError, match=r"'row' of 'w'.*broadcasts"):
        cut.step()
    assert not cut.state
