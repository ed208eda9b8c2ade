"""Parameters as a process holds them: the local pieces of their layers, and sums over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layerpace.engine.sharding.collectives import TableReduce, is_distributed, local
from layerpace.engine.sharding.shards import Shard, shard_of
from layerpace.engine.support import real
from layerpace.layers.base import ParameterLayers


class Shards:
    """The layers of parameters on one device.

    Where a parameter is sharded, every process must make this and call ``sums``, for the same parameters.

    Args:
        params: plain tensors and DTensors.
        cuts: how each is cut into layers.
        known: what this process holds of DTensors, as far as it has been found out.
    """

    def __init__(
        self, params: Sequence[Tensor], cuts: Mapping[Tensor, ParameterLayers], known: dict[Tensor, Shard]
    ) -> None:
        self.params = list(params)
        held = [shard_of(known, param, cuts[param]) if is_distributed(param) else None for param in params]
        self._cuts = [cuts[p] if h is None else h.rows.layers for p, h in zip(params, held, strict=True)]
        self.sharing: TableReduce | None = None
        if any(item is not None and item.split for item in held):
            here: list[int] = []
            groups: list[Sequence[Any]] = []
            for param, item in zip(params, held, strict=True):
                first, count = len(groups), cuts[param].count
                here += [first + k for k in (range(count) if item is None else item.rows.present)]
                groups += [() if item is None else item.groups] * count
            self.sharing = TableReduce(len(groups), here, groups, params[0].device)

    def pieces(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Tensors like the parameters, of DTensors the local shards, cut into layers; of complex ones the real view."""
        found: list[Tensor] = []
        for tensor, cut in zip(tensors, self._cuts, strict=True):
            x = real(local(tensor))
            found += [x] if cut.sizes is None else torch.split(x, list(cut.sizes))
        return found

    def sums(self, function: Callable[..., Tensor], columns: int, *lists: Sequence[Tensor]) -> Tensor:
        """``function`` of the pieces here, added up over processes: float64 [layers, columns]."""
        device = self.params[0].device
        here = function(*lists) if lists[0] else torch.zeros(0, columns, dtype=torch.float64, device=device)
        return here if self.sharing is None else self.sharing.add(here)
