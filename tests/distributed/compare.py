"""What several processes have done together, beside what one process did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tests.distributed.training import Part
from torch import Tensor

RTOL = 1e-6


@dataclass
class Whole:
    """The tensors of a training, put together from the shards of all processes."""

    weights: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]


def joined(parts: Sequence[Part], expected: Part) -> Whole:
    """Put shards into their places; what two processes have must be the same to the bit.

    Args:
        parts: of every process.
        expected: of a training in one process, for the shapes.
    """
    weights = {
        name: _joined(w.shape, [(part.places[name], part.weights[name]) for part in parts], name)
        for name, w in expected.weights.items()
    }
    state: dict[str, dict[str, Tensor]] = {}
    for name, values in expected.state.items():
        state[name] = {}
        for key, value in values.items():
            what, shards = f"{key} of {name}", [(part.places[name], part.state[name][key]) for part in parts]
            if what in parts[0].sharded:
                state[name][key] = _joined(value.shape, shards, what)
            else:
                state[name][key] = shards[0][1]
                assert all(_same(shard, shards[0][1]) for _, shard in shards), f"{what}: the ranks disagree"
    return Whole(weights, state)


def _joined(shape: torch.Size, shards: list[tuple[Tensor, Tensor]], what: str) -> Tensor:
    found = torch.zeros(shape.numel(), dtype=shards[0][1].dtype)
    known = torch.zeros(shape.numel(), dtype=torch.bool)
    for places, shard in shards:
        assert shard.shape == places.shape, f"{what}: {tuple(shard.shape)} in the place of {tuple(places.shape)}"
        again = known[places]
        assert _same(found[places][again], shard[again]), f"{what}: copies of a shard differ"
        found[places], known[places] = shard, True
    assert known.all(), what
    return found.reshape(shape)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5))


def assert_same_training(
    parts: list[Part], expected: Part, rtol: float = RTOL, state_rtol: float = 1e-5, coefficients: bool = True
) -> None:
    """All processes together have the weights and the state of one, and all had the same coefficients to the bit.

    Args:
        rtol: ||a - b|| / ||b|| of a tensor of weights.
        state_rtol: the same of a tensor of state, such as a moment whose terms cancel.
        coefficients: the last ones are compared with those of one process, too, in any order.
    """
    assert len({part.coefficients for part in parts}) == 1, "the ranks disagree about coefficients"
    for rank, part in enumerate(parts):
        assert part.written == [], f"rank {rank}: p.grad of {part.written} was written"
        assert part.weights.keys() == expected.weights.keys() and part.weights
        for name, state in expected.state.items():
            assert part.state[name].keys() == state.keys(), f"rank {rank}: {name}"
        assert part.last.keys() == expected.last.keys()
        for key, values in expected.last.items() if coefficients else ():
            got = part.last[key]
            assert got.dtype == torch.float64 and got.shape == values.shape, f"rank {rank}: not every layer's {key}"
            torch.testing.assert_close(got.sort().values, values.sort().values, rtol=1e-4, atol=1e-9, equal_nan=True)
    whole = joined(parts, expected)
    for name, w in expected.weights.items():
        _assert_close(whole.weights[name], w, rtol, name)
        for key, value in expected.state[name].items():
            _assert_close(whole.state[name][key], value, state_rtol, f"{key} of {name}")


def _assert_close(got: Tensor, expected: Tensor, rtol: float, what: str) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype, f"{what}: {got.dtype} {tuple(got.shape)}"
    found = error(got, expected)
    assert found <= rtol, f"{what}: off by {found:.2e}"


def error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||; nan agrees with nan alone, inf with the same inf."""
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    same = (a == b) | (a.isnan() & b.isnan())
    difference = float(torch.where(same, 0.0, a - b).norm())
    size = float(torch.where(b.isfinite(), b, 0.0).norm())
    return 0.0 if difference == 0 else float("inf") if difference != difference or not size else difference / size
