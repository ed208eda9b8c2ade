"""The numbers of a step -> quantities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerpace.engine.numerics.columns import Table
from layerpace.engine.plan import Part, RuleRows
from layerpace.monitors.quantities import RATE, RATIOS, UPDATES, from_sums
from layerpace.rules import Identity, Layers, Rule, TrustRatio, clip_rule

# What is known of a rule's layers in a step, before the columns of its table. The first ones change with options only.
OPTIONS = ("lr", "weight_decay", "n", "undecayed", "excluded")
RULE_FIELDS = (*OPTIONS, "ratio", "ok")


def quantities_of(*rules: Rule) -> tuple[str, ...]:
    """What the records of an optimizer with these rules have; of torch's own, which has none."""
    count = max((len(RATIOS) if _clips(r) else 0 if isinstance(r, Identity) else 1 for r in rules), default=0)
    return (*UPDATES, *RATIOS[:count], RATE)


def rule_fields(rule: Rule) -> tuple[str, ...]:
    """The names of ``option_columns`` and ``rule_columns``."""
    return (*RULE_FIELDS, *(f"table {name}" for name in rule.columns()))


def option_columns(part: Part) -> Tensor:
    """What the rules were told of their layers in the last step, float64 [rows, columns]."""
    layers, _ = part.layers()
    excluded = layers.lr.new_zeros(len(part.rows)) if part.excluded_L is None else part.excluded_L.double()
    return torch.stack([layers.lr, layers.weight_decay, layers.n, layers.undecayed.double(), excluded], 1)


def rule_columns(part: Part) -> tuple[list[Tensor], Table]:
    """What the rules did in the last step, float64 [rows, 1] each, and what they saw."""
    ratio = part.coefficients.ratio
    ok = torch.ones_like(ratio) if part.ok_L is None else part.ok_L.double()
    return [ratio[:, None], ok[:, None]], part.table


def columns_of(own: RuleRows, values: Tensor, table: Table) -> Tensor:
    """The rows of one rule, with the sums that it reads: float64 [rows of it, columns].

    Args:
        own: which rows those are.
        values: float64 [rows, ...]: of all rows, without sums.
        table: the sums of all rows.
    """
    columns = own.rule.columns()
    sums = table.values if columns == table.columns else table.values[:, [table.columns.index(n) for n in columns]]
    return own.take(torch.cat([values, sums], 1))


@dataclass(frozen=True)
class Reading:
    """Reads the numbers of a step; ``rule`` None: of an optimizer without layer rule."""

    rule: Rule | None
    min_rms: float

    def __call__(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quantities, float64 [..., rows], nan where GradScaler held the whole step back.

        Args:
            fields: float64 [..., rows] each.
        """
        found = from_sums(fields)
        if self.rule is not None and not isinstance(self.rule, Identity):
            apart = fields["excluded"] != 0
            found["trust_ratio"] = torch.where(apart, torch.nan, fields["ratio"])
            if _clips(self.rule):
                found["trust_ratio_unclipped"] = torch.where(apart, torch.nan, self._unclipped(fields))
        if "ok" in fields:  # else the layer was held back, for a gradient that is not finite
            found = {name: torch.where(fields["ok"] == 0, torch.nan, value) for name, value in found.items()}
            found["grad_norm"] = torch.where(fields["ok"] == 0, torch.inf, found["grad_norm"])
        found[RATE] = fields["lr"]
        return {name: torch.where(fields["skipped"] != 0, torch.nan, value) for name, value in found.items()}

    def _unclipped(self, fields: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self.rule, TrustRatio)
        columns = self.rule.columns()
        flat = {name: fields[name].reshape(-1) for name in RULE_FIELDS}
        layers = Layers(
            n=flat["n"],
            lr=flat["lr"],
            weight_decay=flat["weight_decay"],
            min_rms=self.min_rms,
            decays=True,
            undecayed=flat["undecayed"] != 0,
        )
        table = Table(torch.stack([fields[f"table {name}"].reshape(-1) for name in columns], 1), columns)
        return replace(self.rule, clip=None)(table, layers, {}).ratio.reshape(fields["ratio"].shape)


def _clips(rule: Rule | None) -> bool:
    return isinstance(rule, TrustRatio) and clip_rule(rule.clip) is not None
