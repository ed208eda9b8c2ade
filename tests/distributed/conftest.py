from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.distributed.processes import Pool, pool_of


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four worker processes for all tests of this folder."""
    yield from pool_of(4)
