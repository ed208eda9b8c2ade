"""Measuring the steps of any torch optimizer: the weights before a step against those after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from layerpace.engine.numerics.columns import MEASURED
from layerpace.engine.sharding.collectives import is_distributed, local
from layerpace.layers.base import ParameterLayers
from layerpace.monitors.layout import Layout, by_device, cuts_of
from layerpace.monitors.measure import copy, moves, squares
from layerpace.monitors.reading import Reading, columns_of, option_columns, quantities_of, rule_columns, rule_fields
from layerpace.monitors.shards import Shards
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Numbers, Seen, Watcher
from layerpace.optim.wrap import Wrapped


class ForeignWatcher(Watcher):
    """Any torch optimizer.

    Copies are taken after the closure, if there is one, since it may run the whole of a training step. The memory of
    the copies is kept for the next record.
    """

    def __init__(self, optimizer: Optimizer, layout: Layout, due: Callable[[int], bool], seen: Seen) -> None:
        super().__init__(optimizer, layout, due, seen)
        self.quantities = quantities_of(*([optimizer.rule] if isinstance(optimizer, Wrapped) else []))
        self._kept: dict[Tensor, Tensor] = {}
        self._old: dict[Tensor, Tensor] = {}
        self._shards: dict[torch.device, Shards] = {}
        self._squares: dict[torch.device, Tensor | None] = {}  # of the pieces here; None: there are none
        self._cuts: dict[Tensor, ParameterLayers] = {}
        self._told: set[str] = set()

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.optimizer, Wrapped):
            self.optimizer.observed.ask(self)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._copy()
            return None

        def then_copy() -> Any:
            result = closure()
            if not self._old:  # an optimizer may ask for the loss again, from where it has moved to
                self._copy()
            return result

        if len(args) > 1:
            return (args[0], then_copy, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_copy}

    def _stop(self) -> None:
        self._old, self._shards = {}, {}
        if isinstance(self.optimizer, Wrapped):
            self.optimizer.observed.release(self)

    @torch.no_grad()
    def _copy(self) -> None:
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None and _has_memory(local(param)):
                    kept = self._kept.get(param)
                    here = local(param)
                    if kept is None or not _alike(kept, here):
                        kept = self._kept[param] = torch.empty_like(here)
                    self._old[param] = kept
        copy([local(param) for param in self._old], list(self._old.values()))
        self._cuts = cuts_of(self.optimizer)
        self._shards = {device: self.layout.shards(params, self._cuts) for device, params in by_device(self._old)}
        # Now, since fused optimizers write the gradient without its scale over it.
        self._squares = {
            device: squares(pieces) if (pieces := shards.pieces(map(_gradient, shards.params))) else None
            for device, shards in self._shards.items()
        }

    def _end(self) -> list[Numbers]:
        groups = self.optimizer.param_groups
        rates = {param: self._rate(group) for group in groups for param in group["params"]}
        lost = {p for p, old in self._old.items() if p not in rates or not _comparable(old, local(p))}
        self._say(lost)
        self.measured = [param for param in self._old if param not in lost]
        return [self._numbers(shards, rates, lost, device) for device, shards in self._shards.items()]

    def _say(self, lost: Iterable[Tensor]) -> None:
        names = [name for param in lost for name in self.layout.names(param) if name not in self._told]
        if names:
            self._told.update(names)
            warnings.warn(
                f"the step of {type(self.optimizer).__name__} has exchanged {', '.join(map(repr, names))}, or given it "
                "another shape, device or memory: how far it moved is not recorded",
                stacklevel=2,
            )

    def _numbers(
        self, shards: Shards, rates: Mapping[Tensor, float | Tensor], lost: Container[Tensor], device: torch.device
    ) -> Numbers:
        params, cuts, here = shards.params, self._cuts, self._squares[device]
        names = tuple(name for param in params for name in self.layout.names(param))

        def moves_and_squares(old: list[Tensor], new: list[Tensor]) -> Tensor:
            assert here is not None
            return torch.cat([moves(old, new), here[:, None]], 1)

        old = shards.pieces(map(self._old.__getitem__, params))
        new = shards.pieces(self._old[param] if param in lost else param.detach() for param in params)
        ww, w_l1, dd, wd, d_l1, gg = shards.sums(moves_and_squares, len(MEASURED), old, new).unbind(1)
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:
            gg = gg / scale.to(device).double().square()
        lr = torch.cat([_full(cuts[param].count, rates.get(param, torch.nan), device) for param in params])
        fields: tuple[str, ...] = (*MEASURED, "skipped")
        skipped = self._skipped(len(names), device)
        if any(param in lost for param in params):
            skipped = torch.maximum(
                skipped, torch.cat([_full(cuts[p].count, float(p in lost), device) for p in params])
            )
        columns = [ww, w_l1, gg, dd, wd, d_l1, skipped]
        reading = Reading(None, 0.0)
        if isinstance(self.optimizer, Wrapped):
            more, found = self._of_rule(self.optimizer, names, device)
            fields, columns = (*fields, *more), [*columns, *found.unbind(1)]
            reading = Reading(self.optimizer.rule, self.optimizer.observed.settings.min_rms)
        # After the rule's columns, whose lr only the layers have that it is for.
        return Numbers(names, (*fields, "lr"), Transfer(torch.stack([*columns, lr], 1)), reading)

    def _rate(self, group: Mapping[str, Any]) -> float | Tensor:
        lr: float | Tensor = group.get("lr", torch.nan)
        return lr * group.get("lr_multiplier", 1.0) if isinstance(self.optimizer, Wrapped) else lr

    def _of_rule(
        self, wrapped: Wrapped, names: tuple[str, ...], device: torch.device
    ) -> tuple[tuple[str, ...], Tensor]:
        """The columns of the rule, float64 [rows, columns]; nan for layers that it left to the inner optimizer."""
        places = {name: place for place, name in enumerate(names)}
        params = {id(cut): param for param, cut in wrapped.layers.items()}
        fields = rule_fields(wrapped.rule)
        found = torch.full((len(names), len(fields)), torch.nan, dtype=torch.float64, device=device)
        for part in wrapped.observed.parts:
            if part.device == device:
                found_in = (places[name] for cut in part.rows.cuts for name in self.layout.names(params[id(cut)]))
                rows = torch.tensor(list(found_in), device="cpu")
                did, table = rule_columns(part)
                (own,) = part.rules
                columns = columns_of(own, torch.cat([option_columns(part), *did], 1), table)
                found.index_copy_(0, rows.to(device, non_blocking=True), columns)
        return fields, found


def _alike(kept: Tensor, param: Tensor) -> bool:
    same = kept.shape == param.shape and kept.dtype == param.dtype and kept.device == param.device
    return same and kept.stride() == param.stride()


def _comparable(old: Tensor, now: Tensor) -> bool:
    same = old.shape == now.shape and old.device == now.device and old.is_complex() == now.is_complex()
    return same and now.layout == torch.strided and _has_memory(now)


def _has_memory(x: Tensor) -> bool:
    """Whether the storage has all entries: some wrappers free it, and the addresses of others' tensors are theirs."""
    if x.layout != torch.strided or x.numel() == 0:
        return True
    last = x.storage_offset() + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.untyped_storage().nbytes() >= (last + 1) * x.element_size()


def _gradient(param: Tensor) -> Tensor:
    grad = param.grad
    assert grad is not None
    if is_distributed(grad):
        placed: Any = grad  # it may still have to be added up, as a norm's under sequence parallelism
        of: Any = param
        return grad if tuple(placed.placements) == tuple(of.placements) else _placed_as(of, placed)
    return grad.coalesce().values() if grad.is_sparse else grad


def _placed_as(param: Any, grad: Any) -> Tensor:
    placed: Tensor = grad.redistribute(param.device_mesh, param.placements)
    return placed


def _full(count: int, value: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float64, non_blocking=True).reshape(1).expand(count)
    return torch.full((count,), value, dtype=torch.float64, device=device)
