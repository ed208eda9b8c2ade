"""Forks, threads and other guests of the process: the fused step neither hangs nor takes what is not its own."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.fused import FUSED, needs_fused, needs_kernels
from tests.fused.cases import BUILT_IN, SMALL, Outcome, copies, optimizer, run, train, weights
from tests.fused.processes import program
from tests.methods import assert_same

import layerpace as lp

pytestmark = needs_fused

linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# Two steps alone, as the others must do them: the second one is taken in the child.
EXPECTED = """
params, optimizer = fresh()
optimizer.step()
optimizer.step()
expected = bits(params)
params, optimizer = fresh()
optimizer.step()
"""
CHILDREN = {
    "os.fork": """
pid = os.fork()
if pid == 0:
    optimizer.step()
    os.write(writer, bits(params).encode())
    os._exit(0)
end = lambda: os.kill(pid, signal.SIGKILL)
""",
    "multiprocessing": """
import multiprocessing

def child():
    optimizer.step()
    os.write(writer, bits(params).encode())

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
end = process.kill
""",
    "a fork of a fork": """
pid = os.fork()
if pid == 0:
    os.setpgrp()
    again = os.fork()
    if again == 0:
        optimizer.step()
        os.write(writer, bits(params).encode())
        os._exit(0)
    os.waitpid(again, 0)
    os._exit(0)
end = lambda: os.killpg(pid, signal.SIGKILL)
""",
}
ANSWER = """
ready, _, _ = select.select([reader], [], [], 20)
answer = os.read(reader, 100).decode() if ready else "the child hangs"
end()
optimizer.step()
print("parent", "same" if bits(params) == expected else "differs")
print("child", "same" if answer == expected else answer)
"""


@forks
@pytest.mark.parametrize("child", CHILDREN)
def test_a_forked_child_steps(child: str) -> None:
    """GNU OpenMP's threads do not survive a fork, and a child that waits for them waits forever."""
    lines = program(EXPECTED + "reader, writer = os.pipe()\n" + CHILDREN[child] + ANSWER)
    assert lines == ["parent same", "child same"]


@forks
def test_a_child_that_is_the_first_to_step() -> None:
    code = "reader, writer = os.pipe()\nparams, optimizer = fresh()\n" + CHILDREN["os.fork"]
    code += """
answer = os.read(reader, 100).decode() if select.select([reader], [], [], 20)[0] else "the child hangs"
end()
optimizer.step()
print("same" if answer == bits(params) else answer)
"""
    assert program(code) == ["same"]


@forks
def test_within_a_worker_of_a_data_loader() -> None:
    code = """
from torch.utils.data import DataLoader, Dataset

class Trained(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        params, optimizer = fresh(seed=index, threads=1)
        optimizer.step()
        return bits(params)

alone = [Trained()[index] for index in range(2)]
params, optimizer = fresh(threads=2)
optimizer.step()
loader = DataLoader(Trained(), batch_size=None, num_workers=1, timeout=30, multiprocessing_context="fork")
print("same" if list(loader) == alone else "differs")
"""
    assert program(code) == ["same"]


def test_spawned_children_step() -> None:
    """A child that starts from nothing gets the optimizer by pickling."""
    code = """
import pickle, subprocess
params, optimizer = fresh()
optimizer.step()
grads = [p.grad for p in params]
message = pickle.dumps((optimizer, grads))
child = '''
import pickle, sys, hashlib
optimizer, grads = pickle.load(sys.stdin.buffer)
params = optimizer.param_groups[0]["params"]
for p, g in zip(params, grads):
    p.grad = g
optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in params)).hexdigest())
'''
answer = subprocess.run([sys.executable, "-c", child], input=message, capture_output=True, timeout=40)
optimizer.step()
print("same" if answer.stdout.decode().strip() == bits(params) else answer.stderr.decode())
"""
    assert program(code) == ["same"]


def train_alone(number: int) -> Outcome:
    shapes = {**SMALL, "long": (70_001 + 1000 * number, 1)}
    return run(FUSED, "adam", BUILT_IN[number % 5], shapes, torch.float32, steps=6, weight_decay=0.001 * number)


@pytest.mark.usefixtures("two_threads")
def test_optimizers_in_several_threads() -> None:
    """Eight trainings at a time end as each does alone."""
    alone = [train_alone(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(train_alone, range(8), timeout=60))
    for a, b in zip(together, alone, strict=True):
        assert_same(a.weights, b.weights)
        assert_same(a.state, b.state)


@pytest.mark.usefixtures("two_threads")
def test_one_optimizer_in_several_threads() -> None:
    """Its steps are taken one after the other: as many, and each a whole one."""

    def prepared() -> tuple[dict[str, torch.Tensor], lp.Layerwise]:
        params = weights({**SMALL, "long": (300_007, 1)}, torch.float32)
        method = optimizer(FUSED, params, lp.directions.Adam(), "trust ratio")
        train(method, params, 1)
        return params, method

    params, method = prepared()
    for _ in range(12):
        method.step()
    expected = copies(params)
    params, method = prepared()
    workers = [threading.Thread(target=lambda: [method.step() for _ in range(3)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert_same(copies(params), expected)


def test_other_threads_run_during_a_step() -> None:
    """The interpreter's lock is free while the kernels work: nobody is kept waiting for most of a step."""
    p = torch.ones(8_000_000, 1).requires_grad_()
    method = lp.LAMB([p], backend=FUSED)
    p.grad = torch.full_like(p, 0.1)
    method.step()
    stop, last, longest = False, time.perf_counter(), 0.0

    def beside() -> None:
        nonlocal last, longest
        while not stop:
            now = time.perf_counter()
            last, longest = now, max(longest, now - last)
            time.sleep(0)  # lets go of the lock

    other = threading.Thread(target=beside)
    other.start()
    try:
        shares = []
        for _ in range(20):
            start = last = time.perf_counter()
            longest = 0.0
            method.step()
            shares.append(longest / (time.perf_counter() - start))
    finally:
        stop = True
        other.join()
    assert min(shares) < 0.5, f"the other thread waited for {min(shares):.0%} of a step at best"


@linux
@needs_kernels
def test_one_thread_stays_one_thread() -> None:
    code = """
params, optimizer = fresh(threads=1)
before = threads_of_this_process()
optimizer.step()
optimizer.step()
print(threads_of_this_process() - before)
"""
    assert program(code) == ["0"]


@linux
@needs_kernels
def test_the_threads_are_those_of_torch() -> None:
    """One OpenMP in the process; as many threads as torch may have, and none beside the ones that torch has."""
    code = """
a = torch.ones(1000, 1000)
torch.set_num_threads(2)
(a + a).sum()
params, optimizer = fresh(threads=2)
before = threads_of_this_process()
optimizer.step()
optimizer.step()
print(threads_of_this_process() - before)
maps = {line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line or "libomp" in line}
print(len(maps), *maps)
"""
    threads, libraries = program(code)
    assert threads == "0"
    assert libraries.split()[0] == "1", libraries


@linux
@needs_kernels
def test_import_starts_nothing() -> None:
    """No thread, and no compiled module before it is asked for a step or for its presence."""
    code = """
import os, torch
before = len(os.listdir("/proc/self/task"))
import layerpace
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert program(code, prelude="") == ["0"]
