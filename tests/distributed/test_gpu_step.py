"""The fused GPU step on shards, in Triton's interpreter: its sums go through the one all-reduce."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.distributed.compare import assert_same_training
from tests.distributed.processes import Pool
from tests.distributed.training import CUT, Job, train

from layerpace.engine.backends import triton

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not triton.interprets(), reason="needs Triton's interpreter (TRITON_INTERPRET=1)"
)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("LAMB", {}),
        ("Layca adam", {"nonfinite": "skip", "max_grad_norm": 1.0}),
        ("LARS nesterov", {"capturable": True}),
        ("PercentDelta", CUT),
    ],
    ids=str,
)
def test_shards_on_two_processes(pool: Pool, method: str, options: dict[str, Any]) -> None:
    def job(layout: str, backend: str) -> Job:
        return Job(layout, method, {**options, "backend": backend}, steps=2, blocks=1)

    alone = train(job("plain", "reference"))
    assert_same_training(pool.run(train, 2, job=job("fsdp", "triton"), timeout=120), alone)
