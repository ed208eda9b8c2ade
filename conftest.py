"""What holds for the tests of every folder, and for the examples in docstrings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

# Where there is no GPU, Triton's kernels run in its interpreter, which must be asked for before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore_glob = [] if find_spec("triton") else ["src/layerpace/engine/backends/triton/*"]

# Folders whose tests share a pool of processes, or a set-up that costs seconds: on one worker of pytest-xdist.
TOGETHER = ("tests/distributed", "tests/lab/sweep", "tests/integrations")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = next((folder for folder in TOGETHER if file.startswith(folder)), file)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _registered_parts() -> Iterator[None]:
    """What a test registers is gone after it."""
    from layerpace import directions, rules
    from layerpace.engine.numerics import columns

    tables = directions.BY_NAME._classes, rules.BY_NAME._classes, columns.COLUMNS
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        if table != kept:
            table.clear()
            table.update(kept)  # type: ignore[arg-type]
