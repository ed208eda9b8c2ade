"""A watchdog: programs on a GPU that wait for each other forever would hang the tests; so they end instead."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator

import pytest
import torch

SECONDS = 400.0  # of one test, the compilation of its kernels included


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """A test that takes too long ends the process, with the line that it waits in."""
    if not torch.cuda.is_available():
        yield
        return
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
    torch.cuda.set_sync_debug_mode("default")
