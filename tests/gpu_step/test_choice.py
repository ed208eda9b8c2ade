"""Which tensors the kernels take, and what is said where they cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fused.cases import DIRECTIONS, optimizer
from tests.gpu_step import DEVICE, needs_triton
from torch import Tensor

import layerpace as lp
from layerpace.engine.backends import reference, triton
from layerpace.engine.backends.cpu import native
from layerpace.engine.backends.triton import library
from layerpace.engine.backends.watch import PythonWatch

pytestmark = needs_triton


def backends_of(params: dict[str, Tensor], **options: Any) -> list[Any]:
    """The backend of each bucket after a step."""
    method: Any = optimizer("triton", params, DIRECTIONS["adam"], "trust ratio", **options)
    for p in params.values():
        if p.grad is None:
            p.grad = torch.ones_like(p)
    method.step()
    return [work.backend for part in method._cache.plan.parts for work in part.works]


def test_dense_tensors_of_one_order_are_taken() -> None:
    w = torch.ones(4, 3, 2, 2, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert backends_of({"w": w}) == [triton]
    other = torch.ones(4, 3, 2, 2, device=DEVICE).requires_grad_()
    other.grad = torch.ones(4, 3, 2, 2, device=DEVICE).contiguous(memory_format=torch.channels_last)
    assert backends_of({"other": other}) == [reference]


def test_tensors_that_share_memory_are_left_to_the_reference() -> None:
    memory = torch.ones(30, device=DEVICE)
    shared = {"a": memory[:20].requires_grad_(), "b": memory[10:].requires_grad_()}
    assert backends_of(shared) == [reference]
    memory = torch.ones(30, device=DEVICE)
    apart = {"a": memory[:15].requires_grad_(), "b": memory[15:].requires_grad_()}
    assert backends_of(apart) == [triton]


def test_one_gradient_for_two_weights_is_taken() -> None:
    params = {name: torch.ones(3, 3, device=DEVICE).requires_grad_() for name in "ab"}
    params["a"].grad = params["b"].grad = torch.ones(3, 3, device=DEVICE)
    assert backends_of(params) == [triton]


def test_a_direction_of_ones_own_runs_on_the_reference() -> None:
    class Own(lp.directions.SGD):
        pass

    w = torch.ones(3, 3, device=DEVICE).requires_grad_()
    method: Any = lp.Layerwise([w], direction=Own(), rule="trust_ratio", lr=0.1, backend="triton")
    w.grad = torch.ones_like(w)
    method.step()
    assert method._cache.plan.parts[0].works[0].backend is reference


def test_a_missing_triton_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available", lambda: False)
    with pytest.raises(RuntimeError, match="pip install triton"):
        lp.LAMB([torch.ones(2, 2)], backend="triton")
    library.warn_if_missing.cache_clear()
    with pytest.warns(UserWarning, match="several times as long"):
        library.warn_if_missing()
    library.warn_if_missing.cache_clear()


@pytest.mark.skipif(DEVICE != "cpu", reason="what is said of tensors of the CPU without the interpreter")
def test_tensors_out_of_reach_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "interprets", lambda: False)
    w = torch.ones(2, 2).requires_grad_()
    w.grad = torch.ones_like(w)
    with pytest.raises(RuntimeError, match="backend='triton' got a parameter on cpu"):
        lp.LAMB([w], backend="triton").step()


def test_the_cpu_keeps_its_own_kernels() -> None:
    w = torch.ones(2, 2).requires_grad_()
    w.grad = torch.ones_like(w)
    method: Any = lp.LAMB([w])
    method.step()
    assert method._cache.plan.parts[0].works[0].backend is not triton


def _watched() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    params = [torch.ones(3, 4).requires_grad_(), torch.ones(5).requires_grad_()]
    for p in params:
        p.grad = torch.ones_like(p)
    return params, [{"step": torch.tensor(0.0), "m": torch.zeros_like(p).detach()} for p in params]


def _nothing(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    pass


def _new_gradients(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    for p in params:
        p.grad = torch.zeros_like(p)


def _no_gradient(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    params[1].grad = None


def _other_strides(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    params[0].grad = torch.ones(4, 3).t()


def _other_memory(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    params[0].data = torch.zeros(3, 4)


def _other_state(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    states[1]["m"] = torch.zeros(5)


def _more_state(params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    states[1]["more"] = torch.zeros(5)


@pytest.mark.skipif(native() is None, reason="compares with the compiled module")
@pytest.mark.parametrize(
    ("change", "same"),
    [
        (_nothing, True),
        (_new_gradients, True),
        (_no_gradient, False),
        (_other_strides, False),
        (_other_memory, False),
        (_other_state, False),
        (_more_state, False),
    ],
)
def test_both_watches_notice_the_same(change: Any, same: bool) -> None:
    module = native()
    assert module is not None
    params, states = _watched()
    grads = [p.grad for p in params if p.grad is not None]
    watches = [PythonWatch(params, grads, states, ["step", "m"]), module.Watch(params, grads, states, ["step", "m"])]
    change(params, states)
    for watch in watches:
        assert watch.check() is same
        if same:
            assert [g.data_ptr() for g in watch.grads()] == [p.grad.data_ptr() for p in params if p.grad is not None]
        watch.release()
        assert not watch.grads()


def test_both_watches_count() -> None:
    params, states = _watched()
    watch = PythonWatch(params, [p.grad for p in params if p.grad is not None], states, ["step", "m"])
    assert watch.count() == 1.0 and watch.count() == 2.0
    assert [float(state["step"]) for state in states] == [2.0, 2.0]
    states[0]["step"].fill_(7.0)
    assert watch.count() == -1.0
    assert [float(state["step"]) for state in states] == [7.0, 2.0]
