"""What holds for the tests of every folder, and for the examples in docstrings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

# Threads of OpenMP that wait spin, and those of two workers on two cores keep each other from working: with this, tests
# of the fused step take 35 s instead of 86. It must be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

# Where there is no GPU, Triton's kernels run in its interpreter, which must be asked for before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore_glob = [] if find_spec("triton") else ["src/layerpace/engine/backends/triton/*"]

# What pytest-xdist gives to one worker: a file, or a folder whose tests share a pool of processes.
TOGETHER = ("tests/distributed", "tests/integrations")
# First what takes longest, so that no worker begins with it when the other one is done.
FIRST = (*TOGETHER, "tests/lab", "tests/gpu_step", "tests/commands", "tests/fused")


def group_of(nodeid: str) -> str:
    """The tests that are to run on the same worker as this one."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((k for k, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


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
