"""A shard is the part of the whole tensor that it is taken for, however a mesh cuts it."""

from __future__ import annotations

from tests.distributed.places import wrong
from tests.distributed.processes import Pool


def test_every_placement_on_two_dimensions_of_a_mesh(pool: Pool) -> None:
    assert pool.run(wrong, 4) == [[]] * 4
