"""One thread: the models are tiny, and threads that wait for one another cost more than they compute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.distributed.processes import Pool, pool_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Two worker processes for the tests of sharded models."""
    yield from pool_of(2)
