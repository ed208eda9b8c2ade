"""Programs that run in a fresh interpreter, and the training that they share."""

from __future__ import annotations

import subprocess
import sys

from tests.fused import FUSED

TIMEOUT = 60  # seconds: a program that waits for a thread which is not there would wait forever

# `fresh()` is a problem whose gradients are made already: a fork must find nothing to do but the step.
PRELUDE = """
import hashlib, os, select, signal, sys, threading, time, warnings
import torch
import layerpace as lp

BACKEND = {backend!r}

def fresh(seed=0, threads=2):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    shapes = [(300007, 1), (64, 33), (17,), (5, 70001)]
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return params, lp.LAMB(params, lr=0.02, weight_decay=0.01, max_grad_norm=1.0, backend=BACKEND)

def bits(params):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in params)).hexdigest()

def threads_of_this_process():
    return len(os.listdir("/proc/self/task"))
"""


def program(code: str, *, backend: str = FUSED, prelude: str = PRELUDE) -> list[str]:
    """Run it after the prelude in an interpreter of its own.

    Returns:
        The lines that it printed.
    """
    text = prelude.format(backend=backend) + code
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
