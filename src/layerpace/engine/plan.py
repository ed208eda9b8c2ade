"""What a step rests on: buckets, and what a rule knows of their layers, arranged once for many steps.

For a model of many small tensors, arranging a step takes far longer than its arithmetic. So a plan serves step after
step, for as long as parameters, state and the cut into buckets stay what they are. What may change from step to step
(learning rates, weight decay, the numbers of a direction) is written into it by `Plan.renew`; `Plan.holds` says
whether the tensors are still the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.apart import keep_apart
from layerpace.engine.backends import Backend, FusedBackend, RowOptions, Work, reference
from layerpace.engine.backends.programs import COLUMN_NUMBERS
from layerpace.engine.buckets import OptionSets, cut
from layerpace.engine.entries import Entry, GroupOptions, Scaling, Settings
from layerpace.engine.numerics.columns import MEASURED, Table
from layerpace.engine.rows import Rows
from layerpace.engine.sharding.shards import take_gradients
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Coefficients, Layers, Rule


class Plan:
    """The arrangement of a step, one `Part` a device.

    Attributes:
        settings: of the optimizer.
        parts: where the parameters are.
        fresh: no step has been made with it.
        lasting: whether it can tell that its tensors are the same; else it serves one step.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        options: Sequence[GroupOptions],
        settings: Settings,
        scaling: Scaling,
    ) -> None:
        by_device: dict[torch.device, list[Entry]] = {}
        for entry in entries:
            by_device.setdefault(entry.param.device, []).append(entry)
        self.settings = settings
        self.parts = [Part(device, members, options, settings, scaling) for device, members in by_device.items()]
        self.fresh = True
        works = [work for part in self.parts for work in part.works]
        watched = not any(work.watch is None or work.grad_is_scratch for work in works)
        self.lasting = watched and all(part.apart for part in self.parts)

    def renew(self, options: Sequence[GroupOptions]) -> bool:
        """Take over other options of the groups; False: the plan is of no use for them."""
        return all(part.renew(options) for part in self.parts)

    def holds(self, scaling: Scaling) -> bool:
        """Whether all tensors are what they were; the gradients are looked at anew."""
        return self.lasting and all(part.holds(scaling) for part in self.parts)

    def release(self) -> None:
        """Let go of what belongs to one step: the gradients, above all."""
        self.fresh = False
        for part in self.parts:
            part.release()

    @property
    def table(self) -> Table:
        """The sums of the last step, one row a layer, in the order of the buckets; nan: a sum that its rule ignores."""
        return _stacked([part.table for part in self.parts], self.parts[0].device)

    @property
    def coefficients(self) -> Coefficients:
        """The rule's coefficients in the last step, in the order of ``table``."""
        return _joined([part.coefficients for part in self.parts], self.parts[0].device)


@dataclass
class RuleRows:
    """The rows of the table that belong to one rule.

    Attributes:
        rule: with the numbers of this step.
        kind: a kind of parameter that has it.
        rows: int64 [rows], their places in the table; None: all of it.
        states: the optimizer's state of the parameters of these rows, in their order.
        cuts: how those parameters are cut into layers.
    """

    rule: Rule
    kind: int
    rows: Tensor | None
    states: list[dict[str, Any]]
    cuts: list[ParameterLayers]

    def take(self, x_L: Tensor) -> Tensor:
        """Of a vector over the rows, or a table, those that belong to the rule."""
        return x_L if self.rows is None else x_L.index_select(0, self.rows)


class Part:
    """The parameters of a plan on one device.

    Attributes:
        works: the buckets.
        apart: whether nothing of them lies in memory that the step writes; else all of them are the reference's.
        rows: of the table.
        gated: whether the device decides which layers step.
        fused: of each bucket, whether its backend has the rule built in.
        by_device: whether one backend makes the whole step of all buckets on the device, counting of steps included.
        counted_here: the buckets whose steps the host counts, or asks the device to count before anything else.
        rules: what rules there are, and which rows each has.
        columns: of the table: what the rules read.
        places: {columns of a rule: int64, their places among those}.
        excluded_L: bool [rows], layers that have the identity in the place of the rule; None: there are none.
        scale: the factor on every gradient in this step, float64 []; None: one.
        ok_L: bool [rows], the layers that take this step; None: all do.
        results: the table and the coefficients of the last step, of consecutive buckets or of all rows.
    """

    def __init__(
        self,
        device: torch.device,
        entries: Sequence[Entry],
        options: Sequence[GroupOptions],
        settings: Settings,
        scaling: Scaling,
    ) -> None:
        self.device, self.settings = device, settings
        self.kinds = OptionSets(entries, options)
        self.gated = self._is_gated(scaling)
        buckets = cut(entries, self.kinds, settings, self.gated)
        self.works = [bucket.work(self.kinds.signatures[bucket.kinds[0]], settings) for bucket in buckets]
        self.apart = keep_apart(self.works)
        for work in self.works:
            if not self.apart or not COLUMN_NUMBERS.keys() >= set(work.rule.columns()):
                work.backend = reference
        self.fused = [_fuses(work.backend, work.rule) for work in self.works]

        self._complex = [any(entry.owner is not entry.param for entry in bucket.entries) for bucket in buckets]
        self._first_kinds = [bucket.kinds[0] for bucket in buckets]
        self._held = [(entry.held, entry.saved, dict(entry.saved)) for entry in entries if entry.held is not None]
        self.rows = Rows(entries, self.kinds, buckets, device)
        self.rules = self._rule_rows()
        self.columns = tuple(dict.fromkeys(name for own in self.rules for name in own.rule.columns()))
        # On the device once: a step makes no index there.
        self.places = {columns: self._places(columns) for columns in {own.rule.columns() for own in self.rules}}
        self.by_device = self.rows.sharing is None and _knows(self.works)
        self.counted_here = [work for work in self.works if self._counts_here(work)]
        self.n = _vector(self.rows.n, torch.float64, device)
        self._kinds_L = _vector(self.rows.kinds, torch.int64, device) if len(self.kinds.keys) > 1 else None
        left_out = [out for _, out in self.kinds.keys]
        self.excluded_L = self._per_kind([float(out) for out in left_out]) > 0 if any(left_out) else None
        self.excluded = self.rows.pieces(self.excluded_L)

        kinds = [self.rows.kinds[rows] for rows in self.rows.slices]
        self._kinds_of_rows = [(of, [left_out[kind] for kind in of]) for of in kinds]

        self._row_options: list[RowOptions] = []
        self._row_options_of: object = None

        self.scale: Tensor | None = None
        self.ok_L: Tensor | None = None
        self.results: list[tuple[Table, Coefficients]] = []
        self._layers: tuple[Layers, list[Layers]] | None = None
        self._layers_of: object = None
        self._measured: Tensor | None = None

    def _rule_rows(self) -> list[RuleRows]:
        """The rules of the rows, in the order of their first one."""
        of_kind, found = self.kinds.rules, []
        for kind in sorted(set(of_kind)):
            rule = self.kinds.signatures[kind].rule
            if len(set(of_kind)) == 1:
                return [RuleRows(rule, kind, None, list(self.rows.states), list(self.rows.cuts))]
            rows: list[int] = []
            states: list[dict[str, Any]] = []
            cuts: list[ParameterLayers] = []
            first = 0
            for own, state in zip(self.rows.cuts, self.rows.states, strict=True):
                if own.count and of_kind[self.rows.kinds[first]] == kind:
                    rows += range(first, first + own.count)
                    states.append(state)
                    cuts.append(own)
                first += own.count
            at = torch.tensor(rows, dtype=torch.int64, device="cpu").to(self.device)
            found.append(RuleRows(rule, kind, at, states, cuts))
        return found

    def _places(self, columns: tuple[str, ...]) -> Tensor:
        at = [self.columns.index(name) for name in columns]
        return torch.tensor(at, dtype=torch.int64, device="cpu").to(self.device)

    def _is_gated(self, scaling: Scaling) -> bool:
        return self.settings.nonfinite == "skip" or scaling.found_inf is not None or self.may_be_phantom

    def _counts_here(self, work: Work) -> bool:
        return work.uniform if self.by_device else not self.gated

    @property
    def may_be_phantom(self) -> bool:
        """Whether no learning rate is known to differ from 0."""
        return not any(not isinstance(lr, Tensor) and lr != 0 for lr in self.kinds.rates)

    def renew(self, options: Sequence[GroupOptions]) -> bool:
        """See `Plan.renew`."""
        if not self.kinds.renew(options):
            return False
        for work, kind in zip(self.works, self._first_kinds, strict=True):
            signature = self.kinds.signatures[kind]
            work.direction, work.velocity = signature.direction, signature.velocity
            work.rule, work.l2, work.maximize = signature.rule, signature.l2, signature.maximize
        for own in self.rules:
            own.rule = self.kinds.signatures[own.kind].rule
        return True

    def holds(self, scaling: Scaling) -> bool:
        """See `Plan.holds`."""
        take_gradients(held for held, _, _ in self._held)
        if self._is_gated(scaling) != self.gated:
            return False
        for held, saved, known in self._held:
            if not held.same(held.param) or not _same(saved, known):
                return False
        for work, pairs in zip(self.works, self._complex, strict=True):
            if work.watch is None or not work.watch.check(torch.get_num_threads()):
                return False
            work.grads = work.watch.grads()
            if pairs:
                work.grads = [torch.view_as_real(g) if g.is_complex() else g for g in work.grads]
        return True

    def release(self) -> None:
        """See `Plan.release`."""
        self.scale = None
        for work in self.works:
            work.grads, work.update = [], None
            work.grad_scale = work.ok_L = work.lr_L = None
            if work.watch is not None:
                work.watch.release()
        for held, _, _ in self._held:
            held.release()

    def layers(self) -> tuple[Layers, list[Layers]]:
        """What the rule knows of all layers, and of those of each bucket; made anew when a number has changed."""
        rates, decays, undecayed = self.kinds.rates, self.kinds.decays, self.kinds.undecayed
        on_host = not any(isinstance(lr, Tensor) for lr in rates)
        if self._layers is None or not on_host or self._layers_of != (rates, decays, undecayed):
            whole = Layers(
                n=self.n,
                lr=self._per_kind(rates),
                weight_decay=self._per_kind(decays),
                min_rms=self.settings.min_rms,
                decays=any(decay != 0 for decay in decays),
                undecayed=self._per_kind([float(flag) for flag in undecayed]) > 0,
            )
            self._layers = whole, self._cut(whole)
            self._layers_of = (rates, decays, undecayed) if on_host else None
        return self._layers

    def row_options(self) -> list[RowOptions]:
        """What ``layers`` says, of each bucket, for a backend that works it out on the device."""
        if self._row_options_of is not self.kinds.options:
            rates = tuple(_rate(lr, self.device) if isinstance(lr, Tensor) else lr for lr in self.kinds.rates)
            others = rates, self.kinds.decays, self.kinds.undecayed, self.settings.min_rms
            self._row_options = [RowOptions(kinds, excluded, *others) for kinds, excluded in self._kinds_of_rows]
            self._row_options_of = self.kinds.options
        return self._row_options

    def _cut(self, whole: Layers) -> list[Layers]:
        if len(self.works) == 1 and self.rows.sharing is None:
            return [whole]
        vectors = (whole.n, whole.lr, whole.weight_decay, whole.undecayed)
        cut = [self.rows.pieces(x_L) for x_L in vectors]
        return [
            replace(whole, n=n, lr=lr, weight_decay=weight_decay, undecayed=undecayed)
            for n, lr, weight_decay, undecayed in zip(*cut, strict=True)
        ]

    def at_rates(self, factor_L: Tensor) -> tuple[Layers, list[Layers]]:
        """`layers` with lr multiplied by a factor a layer, float64 [rows]."""
        whole, _ = self.layers()
        scaled = replace(whole, lr=whole.lr * factor_L)
        return scaled, self._cut(scaled)

    def _per_kind(self, values: Sequence[float | Tensor]) -> Tensor:
        """One number a kind -> one a layer: float64 [rows], without waiting for the device."""
        numbers = [value for value in values if not isinstance(value, Tensor)]
        if len(numbers) < len(values):
            once = [torch.as_tensor(v, dtype=torch.float64, device=self.device).reshape(1) for v in values]
            by_kind = torch.cat(once)
        elif len(set(numbers)) == 1:
            return torch.full((len(self.rows),), numbers[0], dtype=torch.float64, device=self.device)
        else:
            by_kind = _vector(numbers, torch.float64, self.device)
        return by_kind.expand(len(self.rows)) if self._kinds_L is None else by_kind.index_select(0, self._kinds_L)

    @property
    def table(self) -> Table:
        """The sums of the last step; nan: a sum that the rule of a row does not read."""
        return _stacked([table for table, _ in self.results], self.device)

    def measure(self) -> None:
        """Take what the buckets have measured in this step, added up over processes, for ``measured``."""
        parts = [work.measured for work in self.works if work.measured is not None]
        empty = torch.zeros(0, len(MEASURED), dtype=torch.float64, device=self.device)
        self._measured = self.rows.add(torch.cat([empty, *parts]))

    @property
    def measured(self) -> Tensor:
        """What monitors read of the last step, float64 [rows, `columns.MEASURED`]; an error if they did not ask."""
        assert self._measured is not None, "no monitor asked for the sums of the last step"
        return self._measured

    @property
    def coefficients(self) -> Coefficients:
        """The rule's coefficients in the last step."""
        return _joined([coefficients for _, coefficients in self.results], self.device)


def _same(state: dict[str, Any], known: dict[str, Any]) -> bool:
    return state.keys() == known.keys() and all(state[name] is value for name, value in known.items())


def _stacked(tables: Sequence[Table], home: torch.device) -> Table:
    """Tables of consecutive rows as one; nan in columns that one of them does not have."""
    columns = tuple(dict.fromkeys(name for table in tables for name in table.columns))
    if all(table.columns == columns for table in tables):
        return Table(torch.cat([table.values.to(home) for table in tables]), columns)
    wide = []
    for table in tables:
        values = table.values.new_full((len(table.values), len(columns)), torch.nan)
        values[:, [columns.index(name) for name in table.columns]] = table.values
        wide.append(values.to(home))
    return Table(torch.cat(wide), columns)


def _fuses(backend: Backend | FusedBackend, rule: Rule) -> bool:
    fuses = getattr(backend, "fuses", None)
    return fuses is not None and bool(fuses(rule))


def _rate(lr: Tensor, device: torch.device) -> Tensor:
    return lr.to(device, lr.dtype if lr.dtype in (torch.float32, torch.float64) else torch.float64)


def _knows(works: Sequence[Work]) -> bool:
    """Whether one backend has all buckets, and all their rules built in."""
    alone = len({id(work.backend) for work in works}) == 1
    knows = getattr(works[0].backend, "knows", None) if alone else None
    return knows is not None and all(bool(knows(work.rule)) for work in works)


def _vector(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, without waiting for it."""
    host = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _joined(parts: Sequence[Coefficients], device: torch.device) -> Coefficients:
    """Coefficients of consecutive layers as one; c of a part that has none is zero."""
    if len(parts) == 1:
        return parts[0]
    c = None
    if any(part.c is not None for part in parts):
        c = torch.cat([(torch.zeros_like(part.b) if part.c is None else part.c).to(device) for part in parts])
    b = torch.cat([part.b.to(device) for part in parts])
    return Coefficients(c=c, b=b, ratio=torch.cat([part.ratio.to(device) for part in parts]))
