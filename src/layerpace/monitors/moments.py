"""Percentiles of an adaptive optimizer's second moment within each layer (layer-rotation paper, figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from layerpace.engine.sharding.collectives import is_distributed
from layerpace.monitors.layout import Layout, cuts_of
from layerpace.monitors.quantities import PERCENTILES, SECOND_MOMENT
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Fields, Numbers

# What optimizers call the average or the sum of the squared gradient; the first that is there counts.
STATES = ("exp_avg_sq", "square_avg", "sum")
SAMPLE = 1 << 14  # entries of a layer that are looked at, evenly spaced


class SecondMoments:
    """Reads them from the optimizer's state, as they are kept there: without bias correction."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @torch.no_grad()
    def read(self, optimizer: Optimizer, params: Sequence[Tensor]) -> list[Numbers]:
        """The percentiles of these parameters' layers; those without a second moment are left out."""
        cuts = cuts_of(optimizer)
        by_device: dict[torch.device, tuple[list[str], list[Tensor]]] = {}
        for param in params:
            state = optimizer.state.get(param, {})
            moment = next((state[name] for name in STATES if isinstance(state.get(name), Tensor)), None)
            if moment is None or moment.shape[: param.ndim] != param.shape or not moment.numel():
                continue
            names, rows = by_device.setdefault(moment.device, ([], []))
            names += self._layout.names(param)
            sizes = cuts[param].sizes
            whole = _whole(moment)
            rows += [_percentiles(part) for part in ([whole] if sizes is None else torch.split(whole, list(sizes)))]
        return [
            Numbers(tuple(names), SECOND_MOMENT, Transfer(torch.stack(rows)), _read)
            for names, rows in by_device.values()
        ]


def _whole(moment: Any) -> Tensor:
    """All of a moment: percentiles are no sums, so that of a sharded one the shards are brought together."""
    whole: Tensor = moment.full_tensor() if is_distributed(moment) else moment
    return whole


def _percentiles(moment: Tensor) -> Tensor:
    flat = moment.reshape(-1)
    every = -(-flat.numel() // SAMPLE)
    at = torch.tensor(PERCENTILES, dtype=torch.float32, device="cpu").div_(100).to(moment.device, non_blocking=True)
    return torch.quantile(flat[:: max(1, every)].float(), at).double()


def _read(fields: Fields) -> dict[str, Tensor]:
    return {name: fields[name] for name in SECOND_MOMENT}
