"""The same bits every time: deterministic kernels, fixed threads, and the hash that tells whether it worked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from .data import raw_bytes


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over a model's state dict: equal exactly where two runs ended with the same bits."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


@contextmanager
def reproducible(threads: int | None) -> Iterator[None]:
    """Deterministic kernels and a fixed number of threads for a block."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: needed for the same bits every time
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever the block does, torch is afterwards as it was before it; of all random numbers only torch's own.

    The generators of GPUs get the seed that they had from the CPU's generator: a run seeds them anew.
    """
    cudnn = torch.backends.cudnn
    state = torch.get_rng_state(), torch.initial_seed()
    threads, dtype, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    grad = torch.is_grad_enabled()
    kernels = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    certain, warned = deterministic()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.manual_seed(state[1])
        torch.set_rng_state(state[0])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.set_grad_enabled(grad)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = kernels
        if (certain, warned) != deterministic():  # a second of imports, and a run has put it back itself
            torch.use_deterministic_algorithms(certain, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def deterministic() -> tuple[bool, bool]:
    """Whether torch asks for deterministic kernels, and whether it only warns where there are none."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
