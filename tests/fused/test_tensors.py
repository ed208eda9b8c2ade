"""Tensors that move, change their layout or share memory: the fused step notices, and equals the reference.

A fused step keeps addresses from step to step. Each test changes something that they rest on between two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.fused import FUSED, needs_fused
from tests.fused.cases import D, R, assert_agree, copies, gradient, outcome, train, weights
from tests.methods import assert_same, snapshot
from torch import Tensor, nn

import layerpace as lp

pytestmark = [needs_fused, pytest.mark.usefixtures("two_threads")]

Make = Callable[..., lp.Layerwise]
Params = dict[str, Tensor]

MAKES: dict[str, Make] = {
    "LAMB": lambda params, **options: lp.LAMB(params, lr=0.02, weight_decay=0.01, **options),
    "LARS": lambda params, **options: lp.LARS(params, lr=0.02, trust_coefficient=0.5, weight_decay=0.01, **options),
    "PercentDelta": lambda params, **options: lp.PercentDelta(params, lr=0.02, **options),
    "Layca": lambda params, **options: lp.Layca(params, lr=0.05, momentum=0.9, **options),
    "NAdam": lambda params, **options: lp.Layerwise(params, direction=D.NAdam(), rule=R.Identity(), lr=0.02, **options),
}
makes = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

# Two small tensors, one of several chunks, a vector that rules leave out.
SHAPES = {"a": (5, 7), "b": (3, 4, 2, 2), "long": (301, 300), "vector": (11,)}

Change = Callable[[lp.Layerwise, Params], None]


def reallocate(method: lp.Layerwise, params: Params) -> None:
    for p in params.values():
        p.data = p.data.clone()


def transpose_in_memory(method: lp.Layerwise, params: Params) -> None:
    params["a"].data = params["a"].data.t().contiguous().t()
    params["long"].data = params["long"].data.t().contiguous().t()


def channels_last(method: lp.Layerwise, params: Params) -> None:
    params["b"].data = params["b"].data.contiguous(memory_format=torch.channels_last)


def with_gaps(method: lp.Layerwise, params: Params) -> None:
    for p in params.values():
        room = torch.full((*p.shape, 2), torch.nan, dtype=p.dtype)
        room[..., 0] = p.data
        p.data = room[..., 0]


def move_in_place(method: lp.Layerwise, params: Params) -> None:
    with torch.no_grad():
        for p in params.values():
            p.mul_(0.5)


def replace_state(method: lp.Layerwise, params: Params) -> None:
    for p in params.values():
        for name, value in method.state[p].items():
            method.state[p][name] = value.clone() if name == "step" else value * 0.5


def replace_state_dicts(method: lp.Layerwise, params: Params) -> None:
    for p in params.values():
        method.state[p] = {name: value.clone() for name, value in method.state[p].items()}


def change_state_data(method: lp.Layerwise, params: Params) -> None:
    for p in params.values():
        for name, value in method.state[p].items():
            if name != "step":
                value.data = value.data * 2


def clear_state(method: lp.Layerwise, params: Params) -> None:
    method.state[params["a"]].clear()
    del method.state[params["long"]]


def state_in_another_layout(method: lp.Layerwise, params: Params) -> None:
    for value in list(method.state[params["long"]].items()):
        if value[1].ndim == 2:
            method.state[params["long"]][value[0]] = value[1].t().contiguous().t()


def count_from_elsewhere(method: lp.Layerwise, params: Params) -> None:
    method.state[params["a"]]["step"] += 10
    method.state[params["b"]]["step"] = torch.tensor(3.0)


def load_own_state(method: lp.Layerwise, params: Params) -> None:
    method.load_state_dict(method.state_dict())


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        reallocate,
        transpose_in_memory,
        channels_last,
        with_gaps,
        move_in_place,
        replace_state,
        replace_state_dicts,
        change_state_data,
        clear_state,
        state_in_another_layout,
        count_from_elsewhere,
        load_own_state,
    )
}


@makes
@precisions
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_between_steps_are_noticed(make: Make, dtype: torch.dtype, change: Change) -> None:
    results = []
    for backend in ("reference", FUSED):
        params = weights(SHAPES, dtype)
        start = copies(params)
        method = make(list(params.items()), backend=backend)
        train(method, params, 3)
        change(method, params)
        train(method, params, 2, first=3)
        change(method, params)
        train(method, params, 1, first=5)
        results.append(outcome(start, params, method))
    assert_agree(
        results[1], results[0], rewritten=change in (move_in_place, replace_state, change_state_data, clear_state)
    )


@makes
def test_memory_that_was_let_go_is_not_written(make: Make) -> None:
    params = weights(SHAPES, torch.float32)
    method = make(list(params.items()), backend=FUSED)
    train(method, params, 2)
    olds = [p.data for p in params.values()] + [x for s in method.state.values() for x in s.values() if x.numel() > 1]
    before = [x.clone() for x in olds]
    reallocate(method, params)
    replace_state(method, params)
    train(method, params, 2, first=2)
    assert_same(olds, before)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda g: g.contiguous(memory_format=torch.channels_last) if g.ndim == 4 else g,
    "expanded": lambda g: g.mean(0, keepdim=True).expand(g.shape),
    "one number": lambda g: g.mean().expand(g.shape),
    "with gaps": lambda g: torch.stack([g, torch.full_like(g, torch.nan)], -1)[..., 0],
    "within a larger one": lambda g: torch.cat([torch.full_like(g, torch.nan), g, g])[len(g) : 2 * len(g)],
    "negative bit": lambda g: torch.complex(g.float(), -g.float()).conj().imag.to(g.dtype),
}


@makes
@precisions
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_another_layout(make: Make, dtype: torch.dtype, layout: str) -> None:
    """In all steps, or in some of them."""
    for when in (lambda step: True, lambda step: step % 2 == 1):
        results = []
        for backend in ("reference", FUSED):
            params = weights(SHAPES, dtype)
            start = copies(params)
            method = make(list(params.items()), backend=backend)
            for step in range(4):
                for name, p in params.items():
                    g = gradient(name, p, step)
                    p.grad = LAYOUTS[layout](g) if when(step) else g
                before = [p.grad.clone() for p in params.values() if p.grad is not None]
                method.step()
                assert_same([p.grad for p in params.values()], before, "gradients")
            results.append(outcome(start, params, method))
        assert_agree(results[1], results[0])


@makes
@pytest.mark.parametrize("kept", [True, False], ids=["kept in place", "new in each step"])
def test_gradients_kept_or_new(make: Make, kept: bool) -> None:
    results = []
    for backend in ("reference", FUSED):
        params = weights(SHAPES, torch.float32)
        start = copies(params)
        method = make(list(params.items()), backend=backend)
        for step in range(5):
            for name, p in params.items():
                g = gradient(name, p, step)
                if kept and p.grad is not None:
                    p.grad.copy_(g)
                else:
                    p.grad = g
            method.step()
            method.zero_grad(set_to_none=not kept)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])


@makes
@precisions
def test_slices_of_a_larger_tensor(make: Make, dtype: torch.dtype) -> None:
    """Columns, rows and every second entry; what lies between stays."""
    cuts: dict[str, Callable[[Tensor], Tensor]] = {
        "columns": lambda x: x[:, 3:40],
        "second": lambda x: x[:, 41:80:2],
        "rows": lambda x: x[50:, 80:],
        "turned": lambda x: x[:20, 80:].t(),
    }
    results, rests = [], []
    for backend in ("reference", FUSED):
        whole = torch.randn(100, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = whole.clone()
        params = {name: cut(whole).requires_grad_() for name, cut in cuts.items()}
        start = copies(params)
        method = make(list(params.items()), backend=backend)
        train(method, params, 3)
        results.append(outcome(start, params, method))
        for cut in cuts.values():
            cut(before).fill_(0)
            with torch.no_grad():
                cut(whole).fill_(0)
        rests.append((whole, before))
    assert_agree(results[1], results[0])
    for whole, before in rests:
        assert torch.equal(whole, before)


@makes
def test_parameters_that_share_one_storage(make: Make) -> None:
    """As a flat parameter does: neighbours without a gap, and addresses that no vector register likes."""
    results = []
    for backend in ("reference", FUSED):
        flat = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
        sizes = (1, 17, 300, 9999, 29683)
        parts = torch.split(flat, sizes)
        params = {f"{k}": part[:, None].requires_grad_() for k, part in enumerate(parts)}
        start = copies(params)
        method = make(list(params.items()), backend=backend, exclude=None)
        train(method, params, 3)
        results.append(outcome(start, params, method))
    still = tuple(name for name in results[0].weights if not results[0].moved(name))
    assert set(still) <= {"0"}
    assert_agree(results[1], results[0], still=still)


@makes
def test_expanded_parameters_are_refused_or_move_alike(make: Make) -> None:
    """One number that stands for many cannot hold many."""

    def attempt(backend: str) -> Any:
        p = torch.ones(3, 1).expand(3, 4).requires_grad_()
        method = make([p], backend=backend)
        p.grad = torch.ones(3, 4)
        try:
            method.step()
        except RuntimeError:
            return "refused"
        return p.detach().clone()

    assert_same(attempt(FUSED), attempt("reference"))


@makes
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parameters(make: Make, dtype: torch.dtype) -> None:
    results = []
    for backend in ("reference", FUSED):
        real = weights(SHAPES, dtype.to_real())
        params = {name: torch.complex(w.detach(), w.detach().flip(0)).requires_grad_() for name, w in real.items()}
        start = {name: torch.view_as_real(p.detach()).clone() for name, p in params.items()}
        method = make(list(params.items()), backend=backend)
        for step in range(3):
            for name, p in params.items():
                g = gradient(name, real[name], step)
                p.grad = torch.complex(g, g.flip(0) * 0.5)
            method.step()
        result = outcome(start, params, method)
        result.weights = {name: torch.view_as_real(w) for name, w in result.weights.items()}
        results.append(result)
    assert_agree(results[1], results[0])


@makes
def test_a_conjugated_gradient_is_read_or_refused(make: Make) -> None:
    """`x.conj()` has the memory of x and a flag: reading the memory alone would turn the step around."""

    def attempt(backend: str) -> Any:
        p = torch.complex(torch.ones(4, 3), torch.ones(4, 3)).requires_grad_()
        method = make([p], backend=backend)
        for _ in range(2):
            g = torch.complex(torch.full((4, 3), 0.1), torch.arange(12.0).reshape(4, 3) / 10)
            p.grad = g.conj() if backend == FUSED else g.conj().resolve_conj()
            try:
                method.step()
            except RuntimeError:
                return None
        return torch.view_as_real(p.detach().clone())

    got = attempt(FUSED)
    if got is not None:
        torch.testing.assert_close(got, attempt("reference"), rtol=1e-5, atol=1e-6)


@makes
@precisions
def test_autograd_notices_that_a_step_changed_what_it_saved(make: Make, dtype: torch.dtype) -> None:
    layer = nn.Linear(6, 5, dtype=dtype)
    method = make(list(layer.named_parameters()), backend=FUSED)
    x = torch.randn(3, 6, dtype=dtype, requires_grad=True)
    loss = layer(x).square().sum()
    loss.backward(retain_graph=True)
    versions = [p._version for p in layer.parameters()]
    for _ in range(2):
        before = [p._version for p in layer.parameters()]
        method.step()
        assert all(p._version > version for p, version in zip(layer.parameters(), before, strict=True))
    assert all(p._version > version for p, version in zip(layer.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@makes
def test_within_inference_mode(make: Make) -> None:
    results = []
    for backend in ("reference", FUSED):
        with torch.inference_mode():
            params = {name: w.detach().clone() for name, w in weights(SHAPES, torch.float32).items()}
            assert all(p.is_inference() for p in params.values())
            start = copies(params)
            method = make(list(params.items()), backend=backend)
            train(method, params, 3)
            results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])


@makes
def test_a_sparse_gradient_leaves_everything(make: Make) -> None:
    params = weights(SHAPES, torch.float32)
    method = make(list(params.items()), backend=FUSED)
    train(method, params, 2)
    before = snapshot(method)
    for name, p in params.items():
        p.grad = gradient(name, p, 2)
    params["long"].grad = gradient("long", params["long"], 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        method.step()
    assert_same(snapshot(method), before)


@makes
def test_a_module_goes_to_another_dtype_and_back(make: Make) -> None:
    """`module.to` swaps the data of the parameters; the state follows by loading it."""
    results = []
    for backend in ("reference", FUSED):
        layer = nn.Linear(40, 30)
        torch.manual_seed(0)
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
        params = dict(layer.named_parameters())
        start = copies(params)
        method = make(list(params.items()), backend=backend)
        for first, dtype in ((0, torch.float32), (2, torch.float64), (4, torch.float32)):
            layer.to(dtype)
            for p in params.values():
                p.grad = None
            if first:
                method.load_state_dict(method.state_dict())
            train(method, params, 2, first=first)
        results.append(outcome(start, params, method))
    assert_agree(results[1], results[0])
