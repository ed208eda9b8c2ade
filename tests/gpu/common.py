"""What the tests on a GPU share. Without a GPU it works on the CPU, where Triton's interpreter can run it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fused.cases import LARGE, SMALL, Outcome, Shapes, assert_agree, gradient, reference_forbidden, run, weights
from torch import Tensor

import layerpace as lp

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES: Shapes = {**SMALL, **LARGE}

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

Make = Callable[..., Any]


def _adam(params: Any, lr: Any = 1e-3, **options: Any) -> lp.Layerwise:
    return lp.Layerwise(params, direction="adam", rule="identity", lr=lr, **options)


# name -> (make, learning rate)
MAIN: dict[str, tuple[Make, float]] = {
    "LAMB": (lp.LAMB, 0.01),
    "LARS": (lp.LARS, 0.5),
    "PercentDelta": (lp.PercentDelta, 0.02),
    "Layca": (lp.Layca, 0.03),
    "Adam": (_adam, 0.01),
}
main = pytest.mark.parametrize("name", MAIN)


def make(name: str, params: Mapping[str, Tensor], **options: Any) -> Any:
    """A main method by the kernels, at its learning rate."""
    method, lr = MAIN[name]
    return method(list(params.items()), **{"lr": lr, "backend": "triton", **options})


def made(
    shapes: Shapes, device: str | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Parameters on the device, each with a gradient tensor that stays where it is."""
    params = weights(shapes, dtype, seed, DEVICE if device is None else device)
    for name, p in params.items():
        p.grad = gradient(name, p, 0)
    return params


def set_gradients(params: Mapping[str, Tensor], step: int, factor: float = 1.0) -> None:
    """Write other gradients into the tensors that there are."""
    with torch.no_grad():
        for name, p in params.items():
            assert p.grad is not None
            p.grad.copy_(gradient(name, p, step) * factor)


def numbers(params: Mapping[str, Tensor], method: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Copies of the weights and of their state."""
    return {
        name: {"weight": p.detach().clone()} | {key: x.detach().clone() for key, x in method.state[p].items()}
        for name, p in params.items()
    }


def to_host(found: Outcome) -> Outcome:
    """The same tensors on the CPU."""
    return Outcome(
        {name: x.cpu() for name, x in found.start.items()},
        {name: x.cpu() for name, x in found.weights.items()},
        {name: {key: x.cpu() for key, x in state.items()} for name, state in found.state.items()},
    )


def agree(
    *arguments: Any,
    still: tuple[str, ...] = (),
    loose: float = 1.0,
    lr_there: Callable[[str], Tensor] | None = None,
    **options: Any,
) -> None:
    """The kernels agree with the reference on the same device, and with that on the CPU; the reference is not them.

    Args:
        lr_there: makes the learning rate on a device; None: it is a number.
    """

    def use(backend: str, device: str) -> Outcome:
        more = {} if lr_there is None else {"lr": lr_there(device)}
        return run(backend, *arguments, device=device, **options, **more)

    with reference_forbidden():
        got = use("triton", DEVICE)
    assert all(w.device.type == DEVICE for w in got.weights.values())
    assert_agree(got, use("reference", DEVICE), still=still, loose=loose)
    assert_agree(to_host(got), to_host(use("reference", "cpu")), still=still, loose=loose)


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Within it, what waits for the device raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def program(
    code: str, timeout: float, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it in an interpreter of its own, which is ended after ``timeout`` seconds.

    Args:
        before: what stands before the interpreter in the command.
    """
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def prints_done(code: str, timeout: float, **environment: str) -> None:
    """The program ends by itself, having printed "done" in its last line."""
    try:
        ended = program(code, timeout, **environment)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"still running after {timeout} s; it printed {error.stdout!r} and {error.stderr!r}")
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
    assert ended.stdout.splitlines()[-1:] == ["done"], ended.stdout[-2000:]
