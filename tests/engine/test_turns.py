"""A step within a step is an error, other threads wait, and a child of a fork waits for nobody."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.methods import METHODS, Problem, assert_same
from torch import Tensor

import layerpace as lp
from layerpace.engine import cache as keeping
from layerpace.engine.step import layerwise_step
from layerpace.engine.turns import Turns

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
signals = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")


@pytest.fixture
def handler() -> Iterator[list[Callable[[], Any]]]:
    """What a signal does; the test must not wait forever for a lock that its own thread has."""
    calls: list[Callable[[], Any]] = []

    def expired(*_: Any) -> None:
        raise AssertionError("a step within a step waits for itself")

    before = signal.signal(signal.SIGUSR1, lambda *_: calls[0]()), signal.signal(signal.SIGALRM, expired)
    signal.alarm(20)
    yield calls
    signal.alarm(0)
    signal.signal(signal.SIGUSR1, before[0])
    signal.signal(signal.SIGALRM, before[1])


def in_the_middle(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> None:
    """Once, after the checks of a step and before its arithmetic."""
    done: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        if not done:
            done.append(True)
            do()
        return layerwise_step(*arguments)

    for module in (keeping, importlib.import_module("layerpace.wrap")):
        monkeypatch.setattr(module, "layerwise_step", interrupted)


@signals
@pytest.mark.parametrize("name", ["LAMB", "wrapped Adam"])
def test_a_step_within_a_step_is_an_error(
    name: str, handler: list[Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, other = Problem(), Problem()
    optimizer, twin = METHODS[name](problem.params), METHODS[name](other.params)
    errors: list[str] = []

    def step() -> None:
        with pytest.raises(RuntimeError, match="within a step") as error:
            optimizer.step()
        errors.append(str(error.value))

    handler.append(step)
    problem.set_gradients(0)
    in_the_middle(monkeypatch, lambda: signal.raise_signal(signal.SIGUSR1))
    optimizer.step()
    assert len(errors) == 1
    other.set_gradients(0)
    twin.step()
    assert_same(problem.weights(), other.weights())  # the outer step is a whole one
    optimizer.step()  # and turns are as they were


def test_turns_of_two_optimizers_know_nothing_of_each_other() -> None:
    with Turns(), Turns():
        pass


def answer_of_child(child: Callable[[], bytes]) -> bytes:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends it
        try:
            os.write(writer, child())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@forks
def test_a_child_does_not_wait_for_a_thread_that_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()
    problem = Problem()
    optimizer = lp.LAMB(problem.params, backend="reference")
    problem.train(optimizer, 1)
    plan = optimizer._cache.plan

    def pause() -> None:
        entered.set()
        leave.wait(20)

    in_the_middle(monkeypatch, pause)
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    assert entered.wait(20)

    def child() -> bytes:
        torch.set_num_threads(1)
        dropped = optimizer._cache._turns.torn
        optimizer.step()
        return b"stepped" if dropped and optimizer._cache.plan is not plan else b"went on with half a step"

    answer = answer_of_child(child)
    leave.set()
    thread.join(20)
    assert answer == b"stepped"
    assert optimizer._cache.plan is plan


@forks
def test_a_fork_within_a_step_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.params, backend="reference")
    problem.set_gradients(0)
    weights: list[Tensor] = []
    reader, writer = os.pipe()
    pids: list[int] = []

    def fork() -> None:
        pids.append(os.fork())
        if pids == [0]:
            signal.alarm(60)
            torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork

    in_the_middle(monkeypatch, fork)
    try:
        optimizer.step()
        weights = problem.weights()
        optimizer.step()
    finally:
        if pids == [0]:
            os.write(writer, b"".join(w.numpy().tobytes() for w in weights))
            os._exit(0)
    os.close(writer)
    os.waitpid(pids[0], 0)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"".join(w.numpy().tobytes() for w in weights)
