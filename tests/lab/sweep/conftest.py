from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import workers


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[Path]:
    """Writes nothing yet; kills what the test leaves."""
    yield tmp_path
    left = workers(tmp_path)
    for process in left:
        process.kill()
    assert not left
