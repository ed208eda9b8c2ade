"""Layca: every layer turns by the same angle."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from layerpace import directions
from layerpace.directions import Direction, HeavyBall
from layerpace.optim.base import Layerwise, Options
from layerpace.rules import Rotation


class Layca(Layerwise):
    """Layer-level controlled amount of weight rotation, in a direction that another optimizer gives::

        s = u - (<u,w> / <w,w>)*w               the part of the direction orthogonal to w
        w <- w - lr*||w|| * s/||s||
        w <- w * ||w_0||/||w||                  back on the sphere of the first weights

    Every layer turns by exactly atan(lr) in a step and keeps its norm; the direction's own length does not matter.

    Args:
        params: as for any torch optimizer; `layerpace.layers.prioritize` makes groups whose layers turn at
            different rates (alpha of the paper).
        lr: rho, the tangent of the angle, >= 0; the paper's 3^-3 with SGD, 3^-5 with Adam and EMA momentum.
        direction: a name ("sgd", "ema_momentum", "adam", "rmsprop", "adagrad", ...) or an instance from
            `layerpace.directions`.
        momentum: heavy-ball momentum of the "sgd" direction, before the rotation, in [0, 1).
        **options: see `Layerwise`. Tensors with at most one dimension follow the direction at rate lr by default.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2, bias=False)
        >>> optimizer = lp.Layca(model.parameters(), lr=3**-3)
        >>> model(torch.rand(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference: *An experimental study of layer-level training speed and its impact on generalization* (2019),
    algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3**-3,
        *,
        direction: str | Direction = "sgd",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        inner = directions.get(direction)
        if momentum:
            if not isinstance(inner, directions.SGD):
                raise ValueError(
                    f"momentum={momentum!r} is for direction='sgd'; {type(inner).__name__} has its own averages, "
                    "which an instance such as directions.RMSProp(momentum=0.9) sets"
                )
            inner = HeavyBall(momentum)
        super().__init__(params, direction=inner, rule=Rotation(), lr=lr, weight_decay=weight_decay, **options)
