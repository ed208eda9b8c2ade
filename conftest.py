"""Where there is no GPU, Triton's kernels run in its interpreter, which must be asked for before they are imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore_glob = [] if find_spec("triton") else ["src/layerpace/engine/backends/triton/*"]
