from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from tests.distributed.processes import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four worker processes for all tests of this folder."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    pool = Pool(4)
    try:
        yield pool
    finally:
        pool.close()
