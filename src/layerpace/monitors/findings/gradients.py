"""Layers that get no gradient, and where on its way it ends."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, figure, subject, verb
from layerpace.monitors.findings.view import MATRIX, View, median


def no_gradient(view: View, free: Tensor) -> list[Finding]:
    """Layers whose gradient is absent or exactly zero, while other layers have one."""
    records, least = len(view.steps), view.thresholds.min_records
    if records < least:
        return []
    trained = torch.tensor([layer.trained for layer in view.layers], dtype=torch.bool, device="cpu")
    trained &= free & view.judged
    counts = view.measured.sum(0)
    absent = trained & (_chances(view) >= least) & (counts == 0)
    left = trained & (counts >= 1) & _left(view)
    grads = view["grad_norm"]
    zero = trained & view.enough & (view.late(grads) == 0) & view.all_late(grads == 0)
    found: list[Finding] = []
    alive = view.enough & ~zero
    for names, since in ((view.names(absent), None), (view.names(left), _last_seen(view, left))):
        if names and bool(alive.any()):
            found.append(_absent(view, names, since))
    if zero.any():
        found += _zero(view, zero) if alive.any() else [_all_zero(view, zero)]
    return found


def _absent(view: View, names: tuple[str, ...], since: int | None) -> Finding:
    when = "never" if since is None else f"since step {since} no longer"
    span = view.span if since is None else (since, view.steps[-1])
    return Finding(
        kind="no_gradient",
        severity="warning",
        layers=names,
        steps=span,
        message=f"{subject(names, view.layers)} {when} {verb(names, 'gets', 'get')} a gradient: "
        f"{verb(names, 'it is', 'they are')} in the optimizer, but nothing that leads to the loss uses "
        f"{verb(names, 'it', 'them')}.",
        evidence=f"no update was measured in {len(view.steps)} records (steps {view.steps[0]} to {view.steps[-1]})"
        if since is None
        else f"last measured at step {since}, the last record is of step {view.steps[-1]}",
        suggestion="look for .detach(), torch.no_grad() or .item() on the way to the loss, and for a branch that "
        "forward() does not use.",
    )


def _zero(view: View, zero: Tensor) -> list[Finding]:
    """A finding for layers whose gradient is exactly zero."""
    since, grads = _zero_since(view, zero), view["grad_norm"]
    names = view.names(zero)
    modules = _modules(view, zero)
    blocked = [module for module, (dead, total) in modules.items() if dead == total]
    # A lone bias whose weight trains has no influence; behind a dead layer, it is the weight whose input is zero.
    alone = tuple(
        layer.name
        for layer, kind, flag in zip(view.layers, view.kinds, zero.tolist(), strict=True)
        if flag and kind != MATRIX and _module(layer.name) not in blocked
    )
    rest = tuple(name for name in names if name not in alone)
    found = []
    if rest:
        others = float(median(view.late(grads)[view.enough & ~zero], 0))
        found.append(
            Finding(
                kind="no_gradient",
                severity="warning" if len(rest) * 2 < len(view.layers) else "error",
                layers=rest,
                steps=(since, view.steps[-1]),
                message=f"{subject(rest, view.layers)} {verb(rest, 'has', 'have')} a gradient of exactly zero"
                f"{_cause(blocked, view)}.",
                evidence=f"gradient norm 0 from step {since} to {view.steps[-1]}; "
                f"median of the other layers {figure(others)}",
                suggestion="a dead ReLU lets nothing through: check its biases and the scale of its input, use leaky "
                "ReLU or GELU, a lower learning rate or a warm-up; else look for a product with zero.",
            )
        )
    if alone:
        found.append(
            Finding(
                kind="no_gradient",
                severity="note",
                layers=alone,
                steps=(since, view.steps[-1]),
                message=f"{subject(alone, view.layers)} {verb(alone, 'has', 'have')} a gradient of exactly zero, while "
                f"{verb(alone, 'its', 'their')} weights train.",
                evidence=f"gradient norm 0 from step {since} to {view.steps[-1]}",
                suggestion="a normalisation or softmax after it takes such a bias out again: bias=False saves it.",
            )
        )
    return found


def _cause(blocked: list[str], view: View) -> str:
    if not blocked:
        return ": what multiplies the weights is zero"
    culprit = blocked[-1]
    following = [layer.name for layer in view.layers if _module(layer.name) == culprit]
    what = f"`{following[0]}`" if culprit == "" or len(following) == 1 else f"`{culprit}`"
    return f". Gradients go from output to input, and {what} is where they end: its output does not reach the loss"


def _all_zero(view: View, zero: Tensor) -> Finding:
    since = _zero_since(view, zero)
    return Finding(
        kind="no_gradient",
        severity="error" if since <= view.steps[0] else "warning",
        layers=view.names(zero),
        steps=(since, view.steps[-1]),
        message="No layer gets a gradient any more: the loss does not depend on the weights.",
        evidence=f"gradient norm 0 in all layers from step {since} to {view.steps[-1]}",
        suggestion="a loss of exactly zero needs nothing more; otherwise look for saturated or dead units near the "
        "output, for weights that have blown up, or for a loss scale that underflows.",
    )


def _chances(view: View) -> Tensor:
    """Records in which a layer could have been measured: those of the most often measured layer."""
    return view.measured.sum(0).max().expand(len(view.layers))


def _left(view: View) -> Tensor:
    """bool [layers]: measured once, and no longer in records like those that it was measured in."""
    out = torch.zeros(len(view.layers), dtype=torch.bool, device="cpu")
    tail = view.measured[-view.window(len(view.steps)) :]
    for place in range(len(out)):
        mine = view.measured[:, place]
        if not mine.any() or tail[:, place].any():
            continue
        with_me = view.measured[mine].any(0)
        out[place] = int(tail[:, with_me].any(1).sum()) >= view.thresholds.min_records / 2
    return out


def _last_seen(view: View, flags: Tensor) -> int | None:
    rows = view.measured[:, flags].any(1).nonzero()
    return view.steps[int(rows[-1])] if len(rows) else None


def _zero_since(view: View, flags: Tensor) -> int:
    return view.since(view["grad_norm"] > 0, flags)[0]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _modules(view: View, flags: Tensor) -> dict[str, tuple[int, int]]:
    """Of each module with a flagged layer, from input to output: how many are flagged, how many there are."""
    counts: dict[str, tuple[int, int]] = {}
    for layer, flag, seen in zip(view.layers, flags.tolist(), view.enough.tolist(), strict=True):
        if seen:
            some, total = counts.get(_module(layer.name), (0, 0))
            counts[_module(layer.name)] = some + flag, total + 1
    return {module: pair for module, pair in counts.items() if pair[0]}
