"""The backend that defines the meaning: plain torch, any device, any floating dtype.

Equations run on a whole bucket at once through `layerpace.engine.numerics.tensors`. Sums are float64, over chunks of
a fixed size so that memory stays bounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.directions.base import State
from layerpace.engine.backends.protocol import Work
from layerpace.engine.broadcast import spread
from layerpace.engine.numerics.columns import COLUMNS, MEASURED, Constants, Operands
from layerpace.engine.numerics.precision import compute_dtype, round_stochastically, store, working_copy
from layerpace.engine.numerics.tensors import Tensors, keep_where
from layerpace.layers.base import ParameterLayers

CHUNK = 1 << 18  # entries; two float64 copies of a chunk are 4 MiB and stay in a cache


def gradient_sums(work: Work, columns: tuple[str, ...]) -> Tensor:
    g = _gradients(work)
    return sums(g, g, work.layers, columns, Constants())


def accumulate(work: Work, columns: tuple[str, ...], constants: Constants) -> Tensor:
    w = Tensors([working_copy(p, s, work.low_precision) for p, s in zip(work.params, work.state, strict=True)])
    g = _gradients(work)
    work.measured = None
    if work.measure:
        work.measured = sums(g, g, work.layers, ("uu",), Constants())  # `apply` puts the others around it
    if work.maximize:
        g = -g
    if work.l2:
        g = g + w * work.l2
    stored = _direction_state(work)
    state = {name: _widened(x) for name, x in stored.items()}
    pairs = [(state[name], stored[name]) for name in state]
    before = [] if work.ok_L is None else [(x, x.clone()) for x, kept in pairs if x is kept]
    u = work.direction(g, w, state, work.t)
    ok = None if work.ok_L is None else spread(work.ok_L, work.layers, w)
    if ok is not None:
        if any(u.items[0] is x.items[0] for x, _ in before):
            u = u.clone()
        for x, old in before:
            keep_where(ok, x, old)
    for x, kept in pairs:
        if x is not kept:
            _store_rounded(x, kept, ok)
    work.update = w, u
    return sums(w, u, work.layers, columns, constants)


def apply(work: Work, c_L: Tensor | None, b_L: Tensor) -> None:
    assert work.update is not None, "accumulate comes before apply"
    w, u = work.update
    work.update = None
    b = spread(b_L, work.layers, w)
    d = u.mul_(b) if _is_scratch(u, work) else u * b
    if c_L is not None:
        d.addcmul_(w, spread(c_L, work.layers, w))
    stored = None if work.velocity is None else Tensors([state["velocity"] for state in work.state])
    v = None if stored is None else _widened(stored)
    ok = None if work.ok_L is None else spread(work.ok_L, work.layers, w)
    before = [] if ok is None else [(x, x.clone()) for x in (w, v) if x is not None]
    old = w.clone() if work.measured is not None else None
    w.sub_(d if v is None else _through_velocity(d, work, v))
    if ok is not None:
        for x, kept in before:
            keep_where(ok, x, kept)
    if v is not None and stored is not None and v is not stored:
        _store_rounded(v, stored, ok)
    for param, weight in zip(work.params, w, strict=True):
        store(param, weight, work.low_precision)
    if old is not None and work.measured is not None:
        _measure_moves(work, old, w)


def _gradients(work: Work) -> Tensors:
    dtype = compute_dtype(work.params[0].dtype)
    g = Tensors([grad.to(dtype) for grad in work.grads])
    return g if work.grad_scale is None else g * Tensors([work.grad_scale] * len(g))


def _direction_state(work: Work) -> State:
    return {name: Tensors([state[name] for state in work.state]) for name in work.direction.state_names()}


def _widened(stored: Tensors) -> Tensors:
    """State in the dtype of the arithmetic: a float32 copy of bfloat16 moments, other state as it is."""
    return stored.to(torch.float32) if stored.dtype == torch.bfloat16 else stored


def _store_rounded(values: Tensors, stored: Tensors, ok: Tensors | None) -> None:
    """Round float32 moments into the bfloat16 tensors that keep them, except where ``ok`` is False."""
    rounded = Tensors([round_stochastically(x, stored.dtype) for x in values])
    if ok is not None:
        keep_where(ok, rounded, stored)
    stored.copy_(rounded)


def _is_scratch(u: Tensors, work: Work) -> bool:
    """Whether the memory of u may be written: it is neither a gradient of the user's nor a state tensor."""
    first = u.items[0]
    if any(first is tensor for tensor in work.state[0].values()):
        return False
    return work.grad_is_scratch or first is not work.grads[0]


def _through_velocity(d: Tensors, work: Work, v: Tensors) -> Tensors:
    velocity = work.velocity
    assert velocity is not None
    v.mul_(velocity.momentum).add_(d * (1 - velocity.dampening) if velocity.dampening else d)
    move = (v * velocity.momentum).add_(d) if velocity.nesterov else v
    return move if work.lr_L is None else move * spread(work.lr_L, work.layers, d)


def _measure_moves(work: Work, old: Tensors, w: Tensors) -> None:
    """Fill in the sums over the weights before the step and over what was subtracted from them."""
    assert work.measured is not None
    new = w if work.low_precision == "master" else Tensors([p.to(w.dtype) for p in work.params])
    moved, place = moves(old, new, work.layers), MEASURED.index("gg")
    work.measured = torch.cat([moved[:, :place], work.measured, moved[:, place:]], 1)
    if work.ok_L is not None:
        work.measured.masked_fill_(~work.ok_L[:, None], torch.nan)


def moves(old: Tensors, new: Tensors, layers: list[ParameterLayers]) -> Tensor:
    """The sums of `MEASURED` over weights and their change, without that of the gradient: float64 [rows, 5]."""
    d = old.to(torch.float64) - new.to(torch.float64)
    return sums(old, d, layers, ("ww", "w_l1", "uu", "wu", "u_l1"), Constants())


def sums(
    w: Tensors, u: Tensors, layers: list[ParameterLayers], columns: tuple[str, ...], constants: Constants
) -> Tensor:
    """The table of these layers: float64 [rows, columns]."""
    if not columns:
        return torch.zeros(sum(cut.count for cut in layers), 0, dtype=torch.float64, device=w.items[0].device)
    rows = [_sums(a, b, cut, columns, constants) for a, b, cut in zip(w, u, layers, strict=True)]
    return torch.cat(rows)


def _sums(w: Tensor, u: Tensor, cut: ParameterLayers, columns: tuple[str, ...], constants: Constants) -> Tensor:
    if cut.sizes is None:
        return _layer_sums(w.reshape(1, -1), u.reshape(1, -1), columns, constants)
    if len(set(cut.sizes)) == 1:
        count = len(cut.sizes)
        entries = w.numel() // count
        return _layer_sums(w.reshape(count, entries), u.reshape(count, entries), columns, constants)
    pairs = zip(torch.split(w, list(cut.sizes)), torch.split(u, list(cut.sizes)), strict=True)
    return torch.cat([_layer_sums(a.reshape(1, -1), b.reshape(1, -1), columns, constants) for a, b in pairs])


def _layer_sums(w_Sn: Tensor, u_Sn: Tensor, columns: tuple[str, ...], constants: Constants) -> Tensor:
    width = max(1, CHUNK // max(1, w_Sn.shape[0]))
    if w_Sn.shape[1] <= width:
        return _chunk_sums(w_Sn, u_Sn, columns, constants)
    chunks = zip(torch.split(w_Sn, width, 1), torch.split(u_Sn, width, 1), strict=True)
    return torch.stack([_chunk_sums(w, u, columns, constants) for w, u in chunks]).sum(0)


def _chunk_sums(w_Sn: Tensor, u_Sn: Tensor, columns: tuple[str, ...], constants: Constants) -> Tensor:
    operands = Operands(w_Sn, u_Sn, constants)
    return torch.stack([COLUMNS[name](operands) for name in columns], 1)
