"""The flow of a step: directions -> table -> rule -> update; the only caller of a backend.

    g, w --accumulate--> table (L x C) --rule--> c, b --apply--> w

A backend that has the rule built in does all of it in one call a bucket, and one for a GPU decides within that call
who steps, so that few kernels are launched however many layers there are. Nothing here waits for the device: no
tensor's value is read by the host. A layer that must not step (a non-finite gradient, a skipped step of GradScaler) is
held back by a mask on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.backends import DeviceBackend, FusedBackend, Gate, Work
from layerpace.engine.broadcast import by_layer, spread
from layerpace.engine.common.fake import has_values
from layerpace.engine.common.printable import printable
from layerpace.engine.entries import Scaling
from layerpace.engine.numerics.columns import Constants, Table
from layerpace.engine.numerics.precision import compute_dtype
from layerpace.engine.numerics.tensors import Scalar, Tensors, keep_where
from layerpace.engine.plan import Part, Plan
from layerpace.engine.rows import RemoteRows
from layerpace.rules import Coefficients, Layers, Rule


def layerwise_step(plan: Plan, scaling: Scaling, measure: bool = False) -> bool:
    """Move every parameter of the plan once.

    Args:
        plan: one that was made for this step, or that holds.
        scaling: of the gradients.
        measure: leave what monitors read in ``plan.measured``.

    Returns:
        False, with nothing changed: step counts were written from outside, and another plan must be made.

    Raises:
        FloatingPointError: non-finite gradients under ``nonfinite="raise"``; nothing has changed.
    """
    settings, parts = plan.settings, plan.parts
    alone = [part.by_device and len(parts) == 1 and settings.nonfinite != "raise" for part in parts]
    try:
        for part, itself in zip(parts, alone, strict=True):
            if scaling.grad_scale is not None and not itself:
                _set_scale(part, scaling.grad_scale.to(part.device, torch.float64).reciprocal().reshape(()))
        if settings.max_grad_norm is not None and not all(alone):
            _clip_global_norm(parts, settings.max_grad_norm, skips=settings.nonfinite == "skip")
        if settings.nonfinite == "raise" and scaling.found_inf is None:  # else GradScaler looks after them
            _raise_if_nonfinite(parts)
        if not _count_steps([work for part in parts for work in part.counted_here], plan.fresh):
            return False
        for part, itself in zip(parts, alone, strict=True):
            for work in part.works:
                work.measure, work.measured = measure, None
            if part.by_device:
                _by_device(part, _gate(part, scaling, itself), measure)
            else:
                _step(part, scaling)
            if measure:
                part.measure()
    finally:
        plan.release()
    return True


def _step(part: Part, scaling: Scaling) -> None:
    """The step on one device; steps are counted already, unless the device decides which."""
    ok_L = part.ok_L = _ok(part, scaling)
    if ok_L is not None:
        for work, ok in zip(part.works, part.rows.pieces(ok_L), strict=True):
            assert ok is not None
            work.ok_L = ok
            _count_those_that_step(work, ok)
    for absent in part.rows.absent:
        _advance_remote(absent, part, ok_L)
    rates = [work.direction.rate(work.t) for work in part.works]
    rates += [_direction(absent, part).rate(absent.t) for absent in part.rows.absent]
    if all(rate is None for rate in rates):
        layers, pieces = part.layers()
    else:
        layers, pieces = part.at_rates(_per_layer(part, [1.0 if rate is None else rate for rate in rates]))
    if part.rows.sharing is not None or (len(part.rules) == 1 and not any(part.fused)):
        part.results = [_in_phases(part, layers, pieces)]
    else:
        part.results = [
            (_fused if fused else _alone)(part, work, piece, excluded)
            for work, piece, excluded, fused in zip(part.works, pieces, part.excluded, part.fused, strict=True)
        ]


def _gate(part: Part, scaling: Scaling, itself: bool) -> Gate:
    """What decides on the device; ``itself``: of all gradients' scale, too."""
    settings = part.settings
    scale = part.scale
    if itself and scaling.grad_scale is not None:
        scale = scaling.grad_scale.to(part.device).reshape(())
    return Gate(
        scale=scale,
        divides=itself,
        max_norm=settings.max_grad_norm if itself else None,
        found_inf=None if scaling.found_inf is None else scaling.found_inf.to(part.device),
        skips=settings.nonfinite == "skip",
        phantom=part.may_be_phantom,
    )


def _by_device(part: Part, gate: Gate, measure: bool) -> None:
    """The step of a backend that decides everything on the device."""
    backend = cast(DeviceBackend, part.works[0].backend)
    options = part.row_options()
    backend.look_ahead(part.works, options, gate)
    found = [
        backend.step(work, own, work.rule.columns(), _constants(part, work), gate)
        for work, own in zip(part.works, options, strict=True)
    ]
    part.results = [
        (Table(rows, work.rule.columns()), coefficients)
        for work, (rows, coefficients, _) in zip(part.works, found, strict=True)
    ]
    part.ok_L = torch.cat([takes_L for _, _, takes_L in found]) != 0 if measure and gate.holds_back else None


def _constants(part: Part, work: Work) -> Constants:
    return work.rule.constants(part.settings.min_rms)


def _direction(absent: RemoteRows, part: Part) -> Direction:
    return part.kinds.signatures[absent.kind].direction


def _advance_remote(absent: RemoteRows, part: Part, ok_L: Tensor | None) -> None:
    """Move on what is one number a layer, of layers that other processes move."""
    steps = Tensors([absent.state["step"]])
    ok = None
    if ok_L is None:
        steps.add_(1.0)
    else:
        ok = spread(ok_L.index_select(0, absent.rows), [absent.layers], steps)
        steps.add_(ok)
    absent.t = _per_parameter(steps)
    direction = _direction(absent, part)
    state = {name: Tensors([absent.state[name]]) for name in direction.layer_state}
    before = {name: x.clone() for name, x in state.items()} if ok is not None else {}
    direction.advance_layers(state, absent.t)
    for name, old in before.items():
        if ok is not None:
            keep_where(ok, state[name], old)


def _per_layer(part: Part, values: Sequence[Scalar]) -> Tensor:
    """A number of each bucket, then of what is absent, which may differ by row -> float64 [rows]."""
    here = [by_layer(value, work.layers, part.device) for value, work in zip(values, part.works, strict=False)]
    return part.rows.collect(here, values[len(part.works) :], part.device)


def _fused(part: Part, work: Work, layers: Layers, excluded_L: Tensor | None) -> tuple[Table, Coefficients]:
    """One call, or all of them if the backend cannot after all."""
    if work.velocity is not None and not work.velocity.lr_inside:
        work.lr_L = layers.lr
    backend = cast(FusedBackend, work.backend)
    columns = work.rule.columns()
    result = backend.step(work, layers, excluded_L, columns, _constants(part, work))
    return _alone(part, work, layers, excluded_L) if result is None else (Table(result[0], columns), result[1])


def _alone(part: Part, work: Work, layers: Layers, excluded_L: Tensor | None) -> tuple[Table, Coefficients]:
    """One bucket, where nothing of it is sharded, or its rule reads nothing."""
    columns = work.rule.columns()
    rows = work.backend.accumulate(work, columns, _constants(part, work))
    table = Table(rows, columns)
    first = None if _begun([work.t]) else by_layer(work.t, work.layers, work.device) == 1
    coefficients = _coefficients(work.rule, table, layers, work.state, first, work.ok_L, excluded_L)
    _apply(work, layers, coefficients.c, coefficients.b, coefficients.ratio)
    return table, coefficients


def _in_phases(part: Part, layers: Layers, pieces: Sequence[Layers]) -> tuple[Table, Coefficients]:
    """All directions, the rules over all layers of all processes at once, all updates.

    A bucket whose rule reads no sums and remembers nothing (the identity) does not wait for the others.
    """
    rows, width = part.rows, len(part.columns)
    sums = [torch.zeros(0, width, dtype=torch.float64, device=part.device)]
    waiting = []
    for place, (work, own, excluded_L) in enumerate(zip(part.works, pieces, part.excluded, strict=True)):
        columns = work.rule.columns()
        if not columns and not work.rule.state_names:
            (_fused if part.fused[place] else _alone)(part, work, own, excluded_L)
            sums.append(torch.zeros(work.rows, width, dtype=torch.float64, device=part.device))
            continue
        waiting.append(place)
        found = work.backend.accumulate(work, columns, _constants(part, work))
        if columns != part.columns:
            wide = torch.zeros(work.rows, width, dtype=torch.float64, device=part.device)
            found = wide.index_copy_(1, part.places[columns], found)
        sums.append(found)
    values = rows.add(torch.cat(sums))
    t = [work.t for work in part.works] + [absent.t for absent in rows.absent]
    first = None if _begun(t) else _per_layer(part, t) == 1
    coefficients = _by_rule(part, values, layers, first)
    vectors = (coefficients.c, coefficients.b, coefficients.ratio)
    ready = list(zip(part.works, pieces, *map(rows.pieces, vectors), strict=True))
    for work, own, c_L, b_L, ratio_L in (ready[place] for place in waiting):
        assert b_L is not None
        assert ratio_L is not None
        _apply(work, own, c_L, b_L, ratio_L)
    return Table(values, part.columns), coefficients


def _by_rule(part: Part, values: Tensor, layers: Layers, first: Tensor | None) -> Coefficients:
    """The coefficients of all rows of the table, each from its own rule.

    Args:
        part: of the plan.
        values: float64 [rows, columns of the part].
        layers: of all rows.
        first: bool [rows], the layers at their first step; None: there are none.
    """
    if len(part.rules) == 1:
        (own,) = part.rules
        table = Table(values, part.columns)
        return _coefficients(own.rule, table, layers, own.states, first, part.ok_L, part.excluded_L)
    c_L, b_L, ratio_L = torch.zeros(3, len(part.rows), dtype=torch.float64, device=part.device).unbind()
    for own in part.rules:
        assert own.rows is not None
        columns = own.rule.columns()
        taken = values.index_select(0, own.rows)
        table = Table(taken if columns == part.columns else taken.index_select(1, part.places[columns]), columns)
        n, lr, decay, undecayed = map(own.take, (layers.n, layers.lr, layers.weight_decay, layers.undecayed))
        of_rule = replace(layers, n=n, lr=lr, weight_decay=decay, undecayed=undecayed)
        masks = [None if mask is None else own.take(mask) for mask in (first, part.ok_L, part.excluded_L)]
        found = _coefficients(own.rule, table, of_rule, own.states, *masks)
        if found.c is not None:
            c_L.index_copy_(0, own.rows, found.c)
        b_L.index_copy_(0, own.rows, found.b)
        ratio_L.index_copy_(0, own.rows, found.ratio)
    return Coefficients(c=c_L, b=b_L, ratio=ratio_L)


def _apply(work: Work, layers: Layers, c_L: Tensor | None, b_L: Tensor, ratio_L: Tensor) -> None:
    if work.velocity is not None and not work.velocity.lr_inside:
        # v is made of d/lr = ratio*(u + lambda*w), and lr multiplies what is subtracted: torch.optim.SGD's order.
        work.lr_L = layers.lr
        b_L = ratio_L
        c_L = b_L * layers.weight_decay
    # Beyond what weights are computed in they would be inf, and nan times a zero.
    largest = torch.finfo(compute_dtype(work.params[0].dtype)).max
    work.backend.apply(work, None if c_L is None else c_L.clamp(-largest, largest), b_L.clamp(-largest, largest))


def _count_steps(works: Sequence[Work], fresh: bool) -> bool:
    """Add one to the step counts of all layers and set t; False: they no longer agree, and none was changed."""
    for done, work in enumerate(works):
        t = work.watch.count() if work.uniform and work.watch is not None else -1.0
        if t >= 0:
            work.t = t
            continue
        if work.uniform and not fresh:
            for counted in works[:done]:
                _counts(counted).sub_(1)
            return False
        steps = _counts(work).add_(1)
        work.t = float(steps.items[0]) if work.uniform else _per_parameter(steps)
    return True


def _count_those_that_step(work: Work, ok_L: Tensor) -> None:
    """Add one to the step counts of the layers that step, and set t."""
    work.t = _per_parameter(_counts(work).add_(spread(ok_L, work.layers, Tensors(work.params))))


def _counts(work: Work) -> Tensors:
    return Tensors([state["step"] for state in work.state])


def _per_parameter(steps: Tensors) -> Tensors:
    # A layer that has been held back since its first step counts 0, and bias correction would divide by zero.
    return Tensors([count.clamp(min=1) for count in steps.to(torch.float64)])


def _gradient_sums(part: Part, *columns: str) -> Table:
    empty = torch.zeros(0, len(columns), dtype=torch.float64, device=part.device)
    sums = [work.backend.gradient_sums(work, columns) for work in part.works]
    return Table(part.rows.add(torch.cat([empty, *sums])), columns)


def _set_scale(part: Part, scale: Tensor) -> None:
    """Multiply gradients by a factor, float64 []."""
    part.scale = scale
    for work in part.works:
        work.grad_scale = scale.to(compute_dtype(work.params[0].dtype))


def _ok(part: Part, scaling: Scaling) -> Tensor | None:
    """bool [L]: which layers take the step; None: all of them."""
    if not part.gated:
        return None
    masks: list[Tensor] = []
    if scaling.found_inf is not None:
        found_inf = scaling.found_inf.to(part.device)
        if part.rows.sharing is not None:  # a process sees the gradients of its own shards alone
            found_inf = part.rows.sharing.any(found_inf)
        masks.append((found_inf == 0).reshape(1))
    skips, phantom = part.settings.nonfinite == "skip", _phantom(part)
    columns = ("nonfinite",) * skips + ("u_l1",) * (phantom is not None)
    if columns:
        table = _gradient_sums(part, *columns)
        if skips:
            masks.append(table["nonfinite"] == 0)
        if phantom is not None:
            masks.append(~phantom | (table["u_l1"] != 0).any())
    ok = torch.ones(len(part.rows), dtype=torch.bool, device=part.device)
    for mask in masks:
        ok = ok & mask
    return ok


def _phantom(part: Part) -> Tensor | None:
    """Whether all learning rates are 0, as a bool tensor; None: certainly not.

    A step with lr = 0 and zero gradients (torch.distributed.checkpoint makes one to create the state) must change
    nothing, no step count and no average either.
    """
    if not part.may_be_phantom:
        return None
    zero = torch.ones((), dtype=torch.bool, device=part.device)
    for lr in {id(lr): lr for lr in part.kinds.rates if isinstance(lr, Tensor)}.values():
        zero = zero & (lr.to(part.device) == 0).all()
    return zero


def _clip_global_norm(parts: Sequence[Part], max_norm: float, skips: bool) -> None:
    """Scale all gradients so that their joint L2 norm is at most ``max_norm``; non-finite layers may not count."""
    home = parts[0].device
    total = torch.zeros((), dtype=torch.float64, device=home)
    for part in parts:
        squares = _gradient_sums(part, "uu")["uu"]
        if skips:
            squares = torch.where(torch.isfinite(squares), squares, 0.0)
        total = total + squares.sum().to(home)
    factor = (max_norm / total.sqrt()).clamp(max=1.0)
    for part in parts:
        here = factor.to(part.device)
        _set_scale(part, here if part.scale is None else part.scale * here)


def _raise_if_nonfinite(parts: Sequence[Part]) -> None:
    bad: list[str] = []
    for part in parts:
        flags_L = _gradient_sums(part, "nonfinite")["nonfinite"] != 0
        if has_values(flags_L):
            bad += [name for name, flag in zip(part.rows.names, flags_L.tolist(), strict=True) if flag]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise FloatingPointError(
            f"gradients with inf or nan in {printable(', '.join(bad[:5]))}{more}; no weight was changed. "
            'Pass nonfinite="skip" to leave such layers out of a step'
        )


def _coefficients(
    rule: Rule,
    table: Table,
    layers: Layers,
    states: Sequence[dict[str, Tensor]],
    first: Tensor | None,
    ok_L: Tensor | None,
    excluded_L: Tensor | None,
) -> Coefficients:
    """The rule's coefficients, and those of the identity without decay for excluded parameters; its memory moves on.

    Args:
        rule, table, layers: of these layers.
        states: of their parameters.
        first: bool [L], the layers at their first step, which is not one held back; None: there are none.
        ok_L: bool [L], the layers that step; None: all.
        excluded_L: bool [L]; None: there are none.
    """
    # A rule's memory in three stages. ``saved`` is what the state holds. ``memory`` is what the rule is handed: for
    # a layer at its first step what `init` makes of its sums, else what is saved. ``changed`` is what the rule returns,
    # which an excluded layer does not take over: its coefficients are not the rule's either. What is written back is
    # the memory with the changes in it, but for layers that are held back, which keep what was saved.
    saved = {name: torch.cat([state[name].reshape(-1) for state in states]) for name in rule.state_names}
    memory = dict(saved)
    if saved and first is not None:
        memory |= {name: torch.where(first, x, saved[name]) for name, x in rule.init(table, layers).items()}
    result = rule(table, layers, memory)
    if saved and (first is not None or result.memory):
        changed = result.memory
        if excluded_L is not None:
            changed = {name: torch.where(excluded_L, memory[name], x) for name, x in changed.items()}
        _remember(({} if first is None else memory) | changed, saved, states, ok_L)
    if excluded_L is None:
        return result
    return Coefficients(
        c=None if result.c is None else torch.where(excluded_L, 0.0, result.c),
        b=torch.where(excluded_L, layers.lr, result.b),
        ratio=torch.where(excluded_L, 1.0, result.ratio),
    )


def _remember(
    memory: dict[str, Tensor], saved: dict[str, Tensor], states: Sequence[dict[str, Tensor]], ok_L: Tensor | None
) -> None:
    """Write a rule's memory, [L] each, into the state; a layer that is held back keeps what was saved."""
    for name, values in memory.items():
        new = values if ok_L is None else torch.where(ok_L, values, saved[name])
        places = [state[name] for state in states]
        parts = torch.split(new, [place.numel() for place in places])
        torch._foreach_copy_(places, [part.view_as(place) for part, place in zip(parts, places, strict=True)])


def _begun(t: Sequence[Scalar]) -> bool:
    """Whether all layers are known to be past their first step."""
    return all(not isinstance(number, Tensors) and number > 1 for number in t)
