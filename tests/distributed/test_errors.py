"""What cannot be trained rightly is refused by every rank, in words that say what to do."""

from __future__ import annotations

import pytest
from tests.distributed.processes import Pool
from tests.distributed.refused import directions_on, raises, refused
from tests.distributed.training import Job

methods = pytest.mark.parametrize("method", ["LAMB", "adam, identity", "wrapped Adam"])


@methods
def test_partial_sums(pool: Pool, method: str) -> None:
    for message in pool.run(refused, 2, parameters="partial", method=method):
        assert "parameter 1" in message and "DTensor" in message and "Replicate" in message


@methods
@pytest.mark.parametrize("parameters", ["fsdp1", "fsdp1, original parameters"])
def test_flat_parameters(pool: Pool, parameters: str, method: str) -> None:
    """With the original parameters, too, a rank has flat pieces: their norms would be those of one shard."""
    for message in pool.run(refused, 2, parameters=parameters, method=method):
        assert "FullyShardedDataParallel" in message and "fully_shard" in message


@pytest.mark.parametrize(("layout", "world"), [("fsdp", 4), ("fsdp x tp", 4), ("tp", 2)])
def test_nonfinite_gradients_raise_everywhere(pool: Pool, layout: str, world: int) -> None:
    """Also on the ranks that have finite gradients only: else they would wait for the others in the next step."""
    job = Job(layout, "LAMB", {"nonfinite": "raise"}, broken={0: ("head.weight", 20, float("nan"))})
    for message, moved in pool.run(raises, world, job=job):
        assert "head.weight" in message and "qkv" not in message and moved == []


def test_directions_that_need_the_whole_tensor(pool: Pool) -> None:
    """A user's own: 3.5% off after 5 steps otherwise, or a state that no checkpoint can load."""
    for placement in ("rows", "columns"):
        for errors in pool.run(directions_on, 2, placement=placement):
            assert errors.pop("elementwise") == ""
            assert "'row' of shape (5,) for 'w'" in errors.pop("by row")
            for name, message in errors.items():
                assert "not elementwise" in message and "'w'" in message and "ignored_params" in message, name
    for errors in pool.run(directions_on, 2, placement="whole"):
        assert set(errors.values()) == {""}
