"""The kernels under compute-sanitizer: no access outside of a tensor, no race in shared memory.

It takes every program of a launch to pieces, so that a few small layers are all it is given. Races in global memory,
which it does not look for, are those of `test_streams`.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from tests.gpu.common import needs_gpu, program

SANITIZER = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")

pytestmark = [
    *needs_gpu,
    pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed"),
]

TIMEOUT = 360  # seconds
FAILED = 86  # exit status for errors that it found

STEPS = """
import torch
import layerpace as lp
generator = torch.Generator().manual_seed(0)
shapes = [(4099, 1), (33, 65), (17,), (1, 1), (6, 50), (64, 128), ()]
params = [torch.randn(shapes[k % 7], generator=generator).to("cuda", {dtype}).requires_grad_() for k in range(20)]
optimizer = lp.LAMB(params, lr=0.01, weight_decay=0.01, backend="triton"{options})
for _ in range(3):
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
torch.cuda.synchronize()
assert all(bool(p.isfinite().all()) for p in params)
print("done")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("torch.float32", ""),
        ("torch.bfloat16", ', state_dtype="bf16", low_precision="stochastic", nonfinite="skip", max_grad_norm=1.0'),
    ],
    ids=["plain", "guarded"],
)
def test_no_errors(tool: str, dtype: str, options: str) -> None:
    assert SANITIZER is not None
    # Every tensor in an allocation of its own, so that what lies beyond it is nobody's; torch probes pointers by calls
    # that fail, which are not meant.
    before = (SANITIZER, "--target-processes", "application-only", "--tool", tool, "--error-exitcode", str(FAILED))
    before += ("--report-api-errors", "no") if tool == "memcheck" else ()
    alone = program("import torch\ntorch.ones(3, device='cuda').sum().item()", TIMEOUT, before)
    if alone.returncode != 0:
        pytest.skip(f"{tool} does not run torch on this machine: {(alone.stdout + alone.stderr)[-500:]}")
    try:
        ended = program(STEPS.format(dtype=dtype, options=options), TIMEOUT, before, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{tool}: still running after {TIMEOUT} s; it printed {error.stdout!r}")
    said = ended.stdout + ended.stderr
    assert "done" in ended.stdout.splitlines(), said[-6000:]
    assert ended.returncode == 0, said[-6000:]
    summary = [line for line in said.splitlines() if "SUMMARY" in line]
    assert summary and all(re.search(r"\b0 errors", line) for line in summary), said[-6000:]
