"""Tests of the fused step on the CPU: it agrees with the reference, gives the same bits anywhere, and is a good guest.

`FUSED` is the backend under test; "reference" in its place compares the yardstick with itself, which must pass too.
"""

from __future__ import annotations

import importlib
import os

import pytest

FUSED = os.environ.get("LAYERPACE_FUSED", "cpu")


def available() -> bool:
    """Whether this machine can run the backend under test."""
    if FUSED == "reference":
        return True
    try:
        backend = importlib.import_module(f"layerpace.engine.backends.{FUSED}")
    except ImportError:
        return False
    return bool(backend.available())


needs_fused = pytest.mark.skipif(not available(), reason=f"backend={FUSED!r} is not compiled in this installation")
needs_kernels = pytest.mark.skipif(
    FUSED == "reference" or not available(), reason="what only compiled kernels have: instruction sets, own threads"
)
