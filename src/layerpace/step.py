"""The flow of a step: directions -> table -> rule -> update; the only caller of a backend.

    g, w --accumulate--> table (L x C) --rule--> c, b --apply--> w

Nothing here waits for the device: no tensor's value is read by the host. A layer that must not step (a non-finite
gradient, a skipped step of GradScaler) is held back by a mask on the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerpace import backends
from layerpace.backends import Velocity, Work
from layerpace.broadcast import by_layer, slices, spread
from layerpace.columns import Table
from layerpace.directions import Direction
from layerpace.layers import ParameterLayers
from layerpace.precision import compute_dtype
from layerpace.rules import Coefficients, Layers, Rule
from layerpace.tensors import Tensors


@dataclass(frozen=True)
class Settings:
    """What holds for every parameter of an optimizer."""

    rule: Rule
    min_rms: float
    low_precision: str
    nonfinite: str
    max_grad_norm: float | None
    backend: str


@dataclass(frozen=True)
class Scaling:
    """What GradScaler hands to a step: gradients are ``grad_scale`` times too large; ``found_inf`` > 0: skip it."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


@dataclass
class Entry:
    """One parameter that takes part in a step.

    ``param`` and ``grad`` are real tensors. ``lr`` has the layer multiplier in it; a tensor there lives on a device
    that must not be waited for. ``weight_decay`` is the decoupled one and ``l2`` the coupled one, both zero for an
    excluded parameter; ``undecayed`` says that its group has neither.
    """

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    layers: ParameterLayers
    direction: Direction
    lr: float | Tensor
    weight_decay: float
    l2: float
    maximize: bool
    velocity: Velocity | None
    undecayed: bool
    grad_is_scratch: bool = False


def layerwise_step(entries: Sequence[Entry], settings: Settings, scaling: Scaling) -> None:
    """Move every parameter of ``entries`` once.

    Raises:
        FloatingPointError: non-finite gradients under ``nonfinite="raise"``; nothing has changed.
    """
    by_device: dict[torch.device, list[Entry]] = {}
    for entry in entries:
        by_device.setdefault(entry.param.device, []).append(entry)
    devices = [_Device(device, members, settings, scaling) for device, members in by_device.items()]
    if settings.max_grad_norm is not None and devices:
        _clip_global_norm(devices, settings.max_grad_norm)
    if settings.nonfinite == "raise" and scaling.found_inf is None:  # else GradScaler looks after them
        _raise_if_nonfinite(devices)
    for device in devices:
        device.step()


class _Device:
    """The part of a step on one device."""

    def __init__(self, device: torch.device, entries: list[Entry], settings: Settings, scaling: Scaling) -> None:
        self.device, self.settings, self.scaling = device, settings, scaling
        self.backend = backends.select(settings.backend, device)
        self.phantom = _phantom(entries, device)
        gated = settings.nonfinite == "skip" or scaling.found_inf is not None or self.phantom is not None
        for entry in entries if gated else ():
            # A step count that the device decides on must live there.
            entry.state["step"] = entry.state["step"].to(device, non_blocking=True)

        buckets: dict[Hashable, list[Entry]] = {}
        for entry in entries:
            buckets.setdefault(_bucket(entry), []).append(entry)
        self.buckets = list(buckets.values())
        self.works = [_work(bucket, settings) for bucket in self.buckets]
        self.scale: Tensor | None = None
        if scaling.grad_scale is not None:
            self.set_scale(scaling.grad_scale.to(device, torch.float64).reciprocal().reshape(()))

    def set_scale(self, scale: Tensor) -> None:
        self.scale = scale
        for work in self.works:
            work.grad_scale = scale.to(compute_dtype(work.params[0].dtype))

    def gradient_sums(self, *columns: str) -> Table:
        parts = [self.backend.gradient_sums(work, columns) for work in self.works]
        return Table(torch.cat(parts), columns)

    def _ok(self) -> Tensor | None:
        """bool [L]: which layers take the step; None: all of them."""
        masks: list[Tensor] = []
        if self.scaling.found_inf is not None:
            masks.append((self.scaling.found_inf.to(self.device) == 0).reshape(1))
        columns = ("nonfinite",) * (self.settings.nonfinite == "skip") + ("u_l1",) * (self.phantom is not None)
        if columns:
            table = self.gradient_sums(*columns)
            if self.settings.nonfinite == "skip":
                masks.append(table["nonfinite"] == 0)
            if self.phantom is not None:
                masks.append(~self.phantom | (table["u_l1"] != 0).any())
        if not masks:
            return None
        ok = torch.ones(sum(work.rows for work in self.works), dtype=torch.bool, device=self.device)
        for mask in masks:
            ok = ok & mask
        return ok

    def step(self) -> None:
        settings, rule = self.settings, self.settings.rule
        ok_L = self._ok()
        counts = [work.rows for work in self.works]
        parts = [None] * len(self.works) if ok_L is None else torch.split(ok_L, counts)
        columns, constants = rule.columns(), rule.constants(settings.min_rms)
        rows = []
        for work, bucket, part in zip(self.works, self.buckets, parts, strict=True):
            work.ok_L = part
            _count_step(work, bucket)
            rows.append(self.backend.accumulate(work, columns, constants))
        table = Table(torch.cat(rows), columns)

        entries = [entry for bucket in self.buckets for entry in bucket]
        layers = _layers(entries, settings.min_rms, self.device)
        rates = [work.direction.rate(work.t) for work in self.works]
        if any(rate is not None for rate in rates):
            factors = [
                by_layer(1.0 if rate is None else rate, work.layers, self.device)
                for work, rate in zip(self.works, rates, strict=True)
            ]
            layers = replace(layers, lr=layers.lr * torch.cat(factors))
        coefficients = _coefficients(rule, table, layers, self.works, ok_L)
        for work, rows_of in zip(self.works, slices(counts), strict=True):
            c_L = None if coefficients.c is None else coefficients.c[rows_of]
            b_L = coefficients.b[rows_of]
            if work.velocity is not None and not work.velocity.lr_inside:
                work.lr_L = layers.lr[rows_of]
                b_L = coefficients.ratio[rows_of]
                c_L = b_L * layers.weight_decay[rows_of]
            largest = torch.finfo(compute_dtype(work.params[0].dtype)).max
            self.backend.apply(work, c_L, b_L.clamp(max=largest))


def _bucket(entry: Entry) -> Hashable:
    step = entry.state["step"]
    t = float(step) if step.numel() == 1 and step.device.type == "cpu" else None
    return (entry.param.dtype, entry.direction, entry.l2, entry.maximize, entry.velocity, t)


def _work(bucket: list[Entry], settings: Settings) -> Work:
    first = bucket[0]
    return Work(
        params=[entry.param for entry in bucket],
        grads=[entry.grad for entry in bucket],
        grad_is_scratch=first.grad_is_scratch,
        state=[entry.state for entry in bucket],
        layers=[entry.layers for entry in bucket],
        direction=first.direction,
        l2=first.l2,
        maximize=first.maximize,
        velocity=first.velocity,
        low_precision=settings.low_precision,
        t=0.0,
    )


def _count_step(work: Work, bucket: list[Entry]) -> None:
    """Add one to the step counts of the layers that step, and set t."""
    steps = Tensors([entry.state["step"] for entry in bucket])
    if work.ok_L is None:
        steps.add_(1)
    else:
        steps.add_(spread(work.ok_L, work.layers, Tensors(work.params)))
    first = steps.items[0]
    if work.ok_L is None and first.numel() == 1 and first.device.type == "cpu":
        work.t = float(first)
    else:
        # A layer that has been held back since its first step counts 0, and bias correction would divide by zero.
        work.t = Tensors([count.clamp(min=1) for count in steps.to(torch.float64)])


def _phantom(entries: list[Entry], device: torch.device) -> Tensor | None:
    """Whether all learning rates are 0, as a bool tensor; None: certainly not.

    A step with lr = 0 and zero gradients (torch.distributed.checkpoint makes one to create the state) must change
    nothing, no step count and no average either.
    """
    rates = [entry.lr for entry in entries]
    if any(not isinstance(lr, Tensor) and lr != 0 for lr in rates):
        return None
    zero = torch.ones((), dtype=torch.bool, device=device)
    for lr in {id(lr): lr for lr in rates if isinstance(lr, Tensor)}.values():
        zero = zero & (lr.to(device) == 0).all()
    return zero


def _clip_global_norm(devices: list[_Device], max_norm: float) -> None:
    """Scale all gradients so that their joint L2 norm is at most ``max_norm``; non-finite layers do not count."""
    home = devices[0].device
    total = torch.zeros((), dtype=torch.float64, device=home)
    for device in devices:
        squares = device.gradient_sums("uu")["uu"]
        if device.settings.nonfinite == "skip":
            squares = torch.where(torch.isfinite(squares), squares, 0.0)
        total = total + squares.sum().to(home)
    scale = (max_norm / total.sqrt()).clamp(max=1.0)
    for device in devices:
        here = scale.to(device.device)
        device.set_scale(here if device.scale is None else device.scale * here)


def _raise_if_nonfinite(devices: list[_Device]) -> None:
    bad: list[str] = []
    for device in devices:
        flags = (device.gradient_sums("nonfinite")["nonfinite"] != 0).tolist()
        names = [name for work in device.works for cut in work.layers for name in cut.layer_names]
        bad += [name for name, flag in zip(names, flags, strict=True) if flag]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise FloatingPointError(
            f"gradients with inf or nan in {', '.join(bad[:5])}{more}; no weight was changed. "
            'Pass nonfinite="skip" to leave such layers out of a step'
        )


def _vector(values: Sequence[float | Tensor], counts: Sequence[int], device: torch.device) -> Tensor:
    """Each value as often as its count says: float64 on the device, without waiting for it."""
    if any(isinstance(value, Tensor) for value in values):
        once = {id(v): torch.as_tensor(v, dtype=torch.float64, device=device).reshape(1) for v in values}
        return torch.cat([once[id(v)].expand(count) for v, count in zip(values, counts, strict=True)])
    repeated = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
    host = torch.tensor(repeated, dtype=torch.float64, device="cpu", pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _layers(entries: Sequence[Entry], min_rms: float, device: torch.device) -> Layers:
    counts = [entry.layers.count for entry in entries]
    n = [float(size) for entry in entries for size in entry.layers.entries(entry.param.shape)]
    return Layers(
        n=_vector(n, [1] * len(n), device),
        lr=_vector([entry.lr for entry in entries], counts, device),
        weight_decay=_vector([entry.weight_decay for entry in entries], counts, device),
        min_rms=min_rms,
        decays=any(entry.weight_decay != 0 for entry in entries),
        undecayed=_vector([float(entry.undecayed) for entry in entries], counts, device) > 0,
    )


def _coefficients(rule: Rule, table: Table, layers: Layers, works: list[Work], ok_L: Tensor | None) -> Coefficients:
    """The rule's coefficients, and those of the identity without decay for excluded parameters."""
    result = rule(table, layers, _rule_state(rule, table, layers, works, ok_L))
    cuts = [cut for work in works for cut in work.layers]
    if any(cut.excluded for cut in cuts):
        out = _vector([float(cut.excluded) for cut in cuts], [cut.count for cut in cuts], layers.n.device) > 0
        result = Coefficients(
            c=None if result.c is None else torch.where(out, 0.0, result.c),
            b=torch.where(out, layers.lr, result.b),
            ratio=torch.where(out, 1.0, result.ratio),
        )
    return result


def _rule_state(rule: Rule, table: Table, layers: Layers, works: list[Work], ok_L: Tensor | None) -> dict[str, Tensor]:
    """The rule's memory of all layers, [L] each; a layer gets it at its first step, which is not one held back."""
    if not rule.state_names:
        return {}
    states = [state for work in works for state in work.state]
    memory = {name: torch.cat([state[name].reshape(-1) for state in states]) for name in rule.state_names}
    if all(not isinstance(work.t, Tensors) and work.t > 1 for work in works):
        return memory
    first = torch.cat([by_layer(work.t, work.layers, work.device) for work in works]) == 1
    keep = first if ok_L is None else first & ok_L
    for name, values in rule.init(table, layers).items():
        saved = torch.where(keep, values, memory[name])
        memory[name] = torch.where(first, values, memory[name])
        for state, part in zip(states, torch.split(saved, [state[name].numel() for state in states]), strict=True):
            state[name].copy_(part.reshape(state[name].shape))
    return memory
