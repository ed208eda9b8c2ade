"""The compiled module, which an installation without a C++ compiler does not have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from types import ModuleType

# torch comes first: it brings the OpenMP library whose threads the kernels share.
import torch

MISSING = (
    "the compiled CPU step of layerpace is missing: it is built at installation, which needs a C++ compiler "
    "(Debian: apt install g++); install layerpace again with one"
)


@lru_cache(maxsize=1)
def native() -> ModuleType | None:
    """The compiled module; None where it could not be built."""
    try:
        return import_module("layerpace.engine.backends.cpu._native")
    except ImportError:
        return None


# At once, since it takes note of forks from then on.
native()


def available() -> bool:
    """Whether the compiled CPU step is part of this installation."""
    return native() is not None


def compiled() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: this installation has none.
    """
    module = native()
    if module is None:
        raise RuntimeError(MISSING)
    return module


@lru_cache(maxsize=1)
def warn_if_missing() -> None:
    """Say once a process that steps on the CPU are slower than they could be."""
    if not available():
        warnings.warn(f"{MISSING}. Until then steps on the CPU take several times as long", stacklevel=2)


def instruction_sets() -> list[str]:
    """The instruction sets with kernels that this machine has, the best last: "baseline", "avx2", "avx512"."""
    return list(compiled().instruction_sets())


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Run the kernels of another instruction set, to the same bits; for tests and measurements.

    Raises:
        ValueError: this machine does not have it.
    """
    module = compiled()
    before = module.instruction_set()
    module.use_instruction_set(name)
    try:
        yield
    finally:
        module.use_instruction_set(before)


def bandwidth(gib: float = 1.0, threads: int | None = None, repetitions: int = 5) -> dict[str, float]:
    """What the memory of this machine can do, in GB/s: the ceiling that a step is measured against.

    Args:
        gib: size of the four float32 arrays together, in GiB; far more than the caches.
        threads: None: as many as torch uses.
        repetitions: the best of so many counts.

    Returns:
        "read": two arrays read. "update": four arrays read and three of them written in place.
    """
    n = max(1, int(gib * 2**30 / 16))
    read, update = compiled().bandwidth(n, torch.get_num_threads() if threads is None else threads, repetitions)
    return {"read": read / 1e9, "update": update / 1e9}
