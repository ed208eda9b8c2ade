"""Tests of the fused GPU step: in Triton's interpreter on the CPU, or on a GPU if there is one."""

from __future__ import annotations

import pytest
import torch

from layerpace.engine.backends import triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_triton = pytest.mark.skipif(
    not triton.available() or not (torch.cuda.is_available() or triton.interprets()),
    reason="needs triton, and a GPU or its interpreter (TRITON_INTERPRET=1)",
)
