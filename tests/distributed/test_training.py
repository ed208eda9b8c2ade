"""Training on several processes is training on one, for every method and every way to lay a model out."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.distributed.compare import RTOL, assert_same_training, error
from tests.distributed.layouts import LAYOUTS
from tests.distributed.processes import Pool
from tests.distributed.training import Job, Part, train, weights
from tests.methods import METHODS, NATIVE, WRAPPED

BACKENDS = [(method, backend) for method in NATIVE for backend in ("auto", "reference")]
EVERY = [*BACKENDS, *((method, None) for method in WRAPPED)]
# Where shards are smallest the fast backend, where two processes have them the reference: each with every method.
PROCESSES = [*((method, "reference" if method in NATIVE else None, 2) for method in METHODS)]
PROCESSES += [(method, "auto" if method in NATIVE else None, world) for world in (2, 4) for method in NATIVE]
PROCESSES += [(method, None, 4) for method in WRAPPED]
FEW = ("LARS nesterov", "Layca adam", "wrapped SGD")
OTHERS = (
    *(("ddp", 2), ("replicated", 2), ("partly", 2), ("fsdp, many meshes", 2), ("fsdp, offload", 2), ("tp", 2)),
    *(("fsdp, last dimension", 4), ("hsdp", 4), ("tp", 4), ("fsdp x tp", 4), ("hsdp x tp", 4), ("two meshes", 4)),
)


def job(layout: str, method: str, backend: str | None) -> Job:
    return Job(layout, method, {} if backend is None else {"backend": backend})


@functools.cache
def alone(method: str, backend: str | None) -> Part:
    """The same training in one process, with plain tensors."""
    return train(job("plain", method, backend))


@pytest.mark.parametrize("method", METHODS)
def test_the_training_moves_every_layer(method: str) -> None:
    """A comparison of two things that never moved proves nothing."""
    for name, w in alone(method, "auto" if method in NATIVE else None).weights.items():
        assert error(w.reshape(-1), weights(name, w.shape).float()) > 10 * RTOL, name


@pytest.mark.parametrize(("method", "backend", "world"), PROCESSES)
def test_several_processes(pool: Pool, method: str, backend: str | None, world: int) -> None:
    ranks = pool.run(train, world, job=job("fsdp", method, backend))
    assert_same_training(ranks, alone(method, backend))


@pytest.mark.parametrize(("method", "backend"), EVERY)
def test_one_process_with_sharded_tensors(pool: Pool, method: str, backend: str | None) -> None:
    assert_same_training(pool.run(train, 1, job=job("fsdp", method, backend)), alone(method, backend))


@pytest.mark.parametrize("method", FEW)
@pytest.mark.parametrize(("layout", "world"), OTHERS)
def test_layouts(pool: Pool, layout: str, world: int, method: str) -> None:
    backend = "auto" if method in NATIVE else None
    ranks = pool.run(train, world, job=job(layout, method, backend))
    assert_same_training(ranks, alone(method, backend))


def test_every_layout_is_tested() -> None:
    assert {layout for layout, _ in OTHERS} | {"plain", "fsdp"} == set(LAYOUTS)


@pytest.mark.parametrize("layout", ["fsdp", "fsdp x tp"])
def test_double_precision(pool: Pool, layout: str) -> None:
    """Nothing on the way is float32: sums, coefficients and steps of float64 weights keep all their digits."""
    ranks = pool.run(train, 4, job=Job(layout, "LAMB", dtype=torch.float64))
    assert_same_training(ranks, train(Job("plain", "LAMB", dtype=torch.float64)), rtol=1e-13, state_rtol=1e-12)
