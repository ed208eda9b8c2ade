"""The flow of a step: directions -> table -> rule -> update; the only caller of a backend.

    g, w --accumulate--> table (L x C) --rule--> c, b --apply--> w

A backend that has the rule built in does all of it in one call a bucket. Nothing here waits for the device: no
tensor's value is read by the host. A layer that must not step (a non-finite gradient, a skipped step of GradScaler) is
held back by a mask on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from layerpace.backends import FusedBackend, Work
from layerpace.broadcast import by_layer, slices, spread
from layerpace.columns import Table
from layerpace.entries import Scaling
from layerpace.plan import Part, Plan
from layerpace.precision import compute_dtype
from layerpace.rules import Coefficients, Layers, Rule
from layerpace.tensors import Tensors


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
    try:
        for part in parts:
            if scaling.grad_scale is not None:
                _set_scale(part, scaling.grad_scale.to(part.device, torch.float64).reciprocal().reshape(()))
        if settings.max_grad_norm is not None:
            _clip_global_norm(parts, settings.max_grad_norm, skips=settings.nonfinite == "skip")
        if settings.nonfinite == "raise" and scaling.found_inf is None:  # else GradScaler looks after them
            _raise_if_nonfinite(parts)
        if not _count_steps([work for part in parts if not part.gated for work in part.works], plan.fresh):
            return False
        for part in parts:
            for work in part.works:
                work.measure, work.measured = measure, None
            _step(part, settings.rule, scaling)
    finally:
        plan.release()
    return True


def _step(part: Part, rule: Rule, scaling: Scaling) -> None:
    """The step on one device; steps are counted already, unless the device decides which."""
    ok_L = part.ok_L = _ok(part, scaling)
    if ok_L is not None:
        for work, ok in zip(part.works, torch.split(ok_L, part.counts), strict=True):
            work.ok_L = ok
            _count_those_that_step(work, ok)
    rates = [work.direction.rate(work.t) for work in part.works]
    if all(rate is None for rate in rates):
        layers, pieces = part.layers()
    else:
        factors = [
            by_layer(rate, work.layers, part.device) if isinstance(rate, Tensors) else 1.0 if rate is None else rate
            for rate, work in zip(rates, part.works, strict=True)
        ]
        layers, pieces = part.at_rates(factors)
    if any(part.fused):
        part.results = [
            (_fused if fused else _alone)(part, work, rule, piece, excluded)
            for work, piece, excluded, fused in zip(part.works, pieces, part.excluded, part.fused, strict=True)
        ]
    else:
        part.results = [_in_phases(part, part.works, rule, layers, part.excluded_L)]


def _fused(
    part: Part, work: Work, rule: Rule, layers: Layers, excluded_L: Tensor | None
) -> tuple[Tensor, Coefficients]:
    """One call, or all of them if the backend cannot after all."""
    if work.velocity is not None and not work.velocity.lr_inside:
        work.lr_L = layers.lr
    backend = cast(FusedBackend, work.backend)
    result = backend.step(work, rule, layers, excluded_L, part.columns, part.constants)
    return _alone(part, work, rule, layers, excluded_L) if result is None else result


def _alone(
    part: Part, work: Work, rule: Rule, layers: Layers, excluded_L: Tensor | None
) -> tuple[Tensor, Coefficients]:
    return _in_phases(part, [work], rule, layers, excluded_L)


def _in_phases(
    part: Part, works: list[Work], rule: Rule, layers: Layers, excluded_L: Tensor | None
) -> tuple[Tensor, Coefficients]:
    """All directions, the rule over all layers at once, all updates."""
    rows_of = [work.backend.accumulate(work, part.columns, part.constants) for work in works]
    table = Table(torch.cat(rows_of), part.columns)
    coefficients = _coefficients(rule, table, layers, works, excluded_L)
    for work, rows in zip(works, slices(part.counts) if len(works) > 1 else [slice(None)], strict=True):
        c_L = None if coefficients.c is None else coefficients.c[rows]
        b_L = coefficients.b[rows]
        if work.velocity is not None and not work.velocity.lr_inside:
            work.lr_L = layers.lr[rows]
            b_L = coefficients.ratio[rows]
            c_L = b_L * layers.weight_decay[rows]
        largest = torch.finfo(compute_dtype(work.params[0].dtype)).max
        work.backend.apply(work, c_L, b_L.clamp(max=largest))
    return table.values, coefficients


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
    return Table(torch.cat([work.backend.gradient_sums(work, columns) for work in part.works]), columns)


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
        masks.append((scaling.found_inf.to(part.device) == 0).reshape(1))
    skips, phantom = part.settings.nonfinite == "skip", _phantom(part)
    columns = ("nonfinite",) * skips + ("u_l1",) * (phantom is not None)
    if columns:
        table = _gradient_sums(part, *columns)
        if skips:
            masks.append(table["nonfinite"] == 0)
        if phantom is not None:
            masks.append(~phantom | (table["u_l1"] != 0).any())
    ok = torch.ones(part.rows, dtype=torch.bool, device=part.device)
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
        flags = (_gradient_sums(part, "nonfinite")["nonfinite"] != 0).tolist()
        names = [name for work in part.works for cut in work.layers for name in cut.layer_names]
        bad += [name for name, flag in zip(names, flags, strict=True) if flag]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise FloatingPointError(
            f"gradients with inf or nan in {', '.join(bad[:5])}{more}; no weight was changed. "
            'Pass nonfinite="skip" to leave such layers out of a step'
        )


def _coefficients(
    rule: Rule, table: Table, layers: Layers, works: list[Work], excluded_L: Tensor | None
) -> Coefficients:
    """The rule's coefficients, and those of the identity without decay for excluded parameters."""
    result = rule(table, layers, _rule_state(rule, table, layers, works))
    if excluded_L is None:
        return result
    return Coefficients(
        c=None if result.c is None else torch.where(excluded_L, 0.0, result.c),
        b=torch.where(excluded_L, layers.lr, result.b),
        ratio=torch.where(excluded_L, 1.0, result.ratio),
    )


def _rule_state(rule: Rule, table: Table, layers: Layers, works: list[Work]) -> dict[str, Tensor]:
    """The rule's memory of all layers, [L] each; a layer gets it at its first step, which is not one held back."""
    if not rule.state_names:
        return {}
    states = [state for work in works for state in work.state]
    memory = {name: torch.cat([state[name].reshape(-1) for state in states]) for name in rule.state_names}
    if all(not isinstance(work.t, Tensors) and work.t > 1 for work in works):
        return memory
    first = torch.cat([by_layer(work.t, work.layers, work.device) for work in works]) == 1
    gates = [work.ok_L for work in works if work.ok_L is not None]
    keep = first & torch.cat(gates) if gates else first
    for name, values in rule.init(table, layers).items():
        saved = torch.where(keep, values, memory[name])
        memory[name] = torch.where(first, values, memory[name])
        for state, part in zip(states, torch.split(saved, [state[name].numel() for state in states]), strict=True):
            state[name].copy_(part.reshape(state[name].shape))
    return memory
