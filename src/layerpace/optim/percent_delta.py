"""PercentDelta: every tensor changes by the same share."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from layerpace import rules
from layerpace.directions import SGD
from layerpace.optim.base import Layerwise
from layerpace.optim.options import Options, only_options


class PercentDelta(Layerwise):
    """Gradient steps scaled so that every tensor changes by the same share::

        d = lr * n / sum |g / (w + eps*sign(w))| * g            n entries; sign(0) = +1
        v <- momentum*v + (1 - dampening)*d
        w <- w - v

    lr is the share by which a tensor changes in a batch: the mean of |d/w| over its entries. With heavy-ball momentum
    (``dampening=0``) the share would be lr/(1 - momentum), ten times lr at 0.9; by default the velocity is an
    average, dampening = momentum, and lr keeps its meaning. Weight decay is coupled: g + lambda*w takes the place of
    g, and the share stays lr. A tensor whose RMS is below min_rms has max(|w|, min_rms) as denominator.

    lr stands inside the velocity: at a rate of 0 the weights move on by what it holds, mu/(1 - mu) times the last step
    in all (9 steps at 0.9). The paper's schedule ends at a floor above 0, `layerpace.schedules.linear_decay`.

    Args:
        params: as for any torch optimizer, or a module; see `Layerwise`.
        lr: the share of eq. 6, eta*gamma(t), >= 0; see `layerpace.schedules.linear_decay` for gamma.
        momentum: mu, in [0, 1).
        dampening: in [0, 1]; None: equal to momentum.
        eps: >= 0, units of the weights.
        weight_decay: lambda of the coupled weight decay, >= 0.
        **options: see `Layerwise`. Biases are adapted like all tensors, as in the paper.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.PercentDelta(model.parameters(), lr=0.03)
        >>> schedule = lp.schedules.linear_decay(optimizer, slope=1e-3)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> schedule.step()

    Reference: Abu-El-Haija (2017), *Proportionate gradient updates with PercentDelta*, eq. 6 to 10.
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 0.03,
        *,
        momentum: float = 0.9,
        dampening: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        only_options(type(self).__name__, options)
        super().__init__(
            params,
            direction=SGD(),
            rule=rules.PercentDelta(eps=eps),
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            dampening=dampening,
            **options,
        )
