"""Layca: every layer turns by the same angle."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from layerpace import directions
from layerpace.directions import SGD, Direction, HeavyBall
from layerpace.optim.base import Layerwise
from layerpace.optim.options import Options, only_options
from layerpace.rules import Rotation


class Layca(Layerwise):
    """Layer-level controlled amount of weight rotation, in a direction that another optimizer gives::

        s = u - (<u,w> / <w,w>)*w               the part of the direction orthogonal to w
        w <- w - lr*||w|| * s/||s||
        w <- w * ||w_0||/||w||                  back on the sphere of the first weights

    Every layer turns by exactly atan(lr) in a step and keeps its norm; the direction's own length does not matter,
    and momentum stands before the rotation. A tensor that starts at zero is put on the sphere of RMS min_rms and stays
    on it: leave it out by ``exclude`` if it must grow.

    Args:
        params: as for any torch optimizer; `layerpace.layers.prioritize` makes groups whose layers turn at
            different rates (alpha of the paper).
        lr: rho, the tangent of the angle, >= 0; the paper's 3^-3 with SGD, 3^-5 with Adam and EMA momentum.
        direction: a name ("sgd", "ema_momentum", "adam", "rmsprop", "adagrad", ...) or an instance from
            `layerpace.directions`.
        momentum: heavy-ball momentum of the "sgd" direction, before the rotation, in [0, 1).
        weight_decay: lambda of the coupled weight decay, >= 0: lambda*w is added to the gradient. Its part along w is
            projected out, so that only its trace in the averages of an adaptive direction is left.
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

    _has_velocity = False  # momentum after the rotation would turn a layer by another angle

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 3**-3,
        *,
        direction: str | Direction = "sgd",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        only_options(type(self).__name__, options)
        inner = directions.get(direction)
        if isinstance(inner, SGD):
            inner = HeavyBall(momentum)
        elif momentum:
            raise ValueError(
                f"momentum={momentum!r} is for direction='sgd'; {type(inner).__name__} has its own averages, "
                "which an instance such as directions.RMSProp(momentum=0.9) sets"
            )
        super().__init__(params, direction=inner, rule=Rotation(), lr=lr, weight_decay=weight_decay, **options)
