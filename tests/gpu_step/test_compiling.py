"""The kernels compile for GPUs, which need not be there for that, and the code is what was meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from tests.gpu_step import needs_triton

pytestmark = needs_triton


@cache
def compiled(cache_dir: Path) -> dict[str, dict[str, Any]]:
    """What `tests.gpu_step.compiling` finds, in a process of its own, where Triton compiles and does not interpret."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache_dir)}
    command = [sys.executable, "-m", "tests.gpu_step.compiling"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    from triton.compiler import ASTSource

    if "constexprs" not in signature(ASTSource).parameters:
        pytest.skip("this version of Triton is told otherwise what to compile")
    return compiled(tmp_path_factory.getbasetemp())


def test_every_kernel_compiles(kernels: dict[str, dict[str, Any]]) -> None:
    assert len(kernels) == 2 * 2 + 2 + 3
    assert all(facts["binary"] > 0 for facts in kernels.values())


def test_entries_are_read_and_written_several_at_once(kernels: dict[str, dict[str, Any]]) -> None:
    """LAMB reads w, g, m and v in its first pass, w, m and v in its second; that tensors lie apart costs nothing."""
    for name, facts in kernels.items():
        if "run_tasks" in name:
            assert facts["wide loads"] >= 7 and facts["wide stores"] >= 3, name


def test_programs_wait_by_release_and_acquire(kernels: dict[str, dict[str, Any]]) -> None:
    for name, facts in kernels.items():
        waits = "run_tasks" in name or "look" in name
        assert (facts["acquires"] > 0 and facts["releases"] > 0) == waits, name


def test_nothing_is_spilled_or_fused(kernels: dict[str, dict[str, Any]]) -> None:
    """No array in local memory; and no product is added unrounded, or the second pass would make another u."""
    for name, facts in kernels.items():
        assert facts["local memory"] == 0, name
        assert facts["fused multiply-adds"] == 0 or "prepare" in name, name


def test_nothing_is_read_twice(kernels: dict[str, dict[str, Any]]) -> None:
    """The compiler may repeat a load in another layout, and a thread would then read what another one has written."""
    for name, facts in kernels.items():
        written, compiled_to = facts["vectors read"]
        assert written == compiled_to > 0, name
