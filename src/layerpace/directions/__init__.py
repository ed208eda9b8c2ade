"""Directions: g, w, state -> u; one file per family. `base` says what a direction must provide."""

from typing import TypeVar

from layerpace.directions.adagrad import AdaDelta, AdaGrad
from layerpace.directions.adam import Adam, AdaMax, AMSGrad, NAdam, RAdam
from layerpace.directions.base import Direction
from layerpace.directions.rmsprop import RMSProp
from layerpace.directions.sgd import SGD, EMAMomentum, HeavyBall, Nesterov
from layerpace.engine.common.registry import Registry

Kind = TypeVar("Kind", bound=Direction)

ALL: tuple[type[Direction], ...] = (
    SGD,
    HeavyBall,
    Nesterov,
    EMAMomentum,
    AdaGrad,
    AdaDelta,
    RMSProp,
    Adam,
    AMSGrad,
    AdaMax,
    NAdam,
    RAdam,
)

BY_NAME = Registry("direction", Direction)
for _kind in ALL:
    BY_NAME.register(_kind)


def register(cls: type[Kind]) -> type[Kind]:
    """Make a direction known by its ``names``, so that ``direction="..."`` and the command line take it.

    A decorator for a frozen dataclass; see `layerpace.directions.base` for what it must provide. It runs on the
    reference backend, under any rule, sharding and monitor. A class that is defined again takes the place of the
    former one.

    Raises:
        TypeError: no dataclass that derives from `Direction`.
        ValueError: no names, or one that another class has.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, layerpace as lp
        >>> @lp.directions.register
        ... @dataclass(frozen=True)
        ... class SignSGD(lp.directions.Direction):
        ...     names = ("sign_sgd",)
        ...     elementwise = True
        ...
        ...     def __call__(self, g, w, state, t):
        ...         return g.sign()
        >>> w = torch.zeros(3, requires_grad=True)
        >>> optimizer = lp.Layerwise([w], direction="sign_sgd", rule="identity", lr=0.5)
        >>> w.grad = torch.tensor([3.0, -0.1, 0.0])
        >>> optimizer.step()
        >>> w.tolist()
        [-0.5, 0.5, 0.0]
    """
    return BY_NAME.register(cls)


def get(direction: str | Direction) -> Direction:
    """The direction of that name with its defaults, or the direction itself."""
    return BY_NAME.part(direction)


__all__ = [
    "ALL",
    "BY_NAME",
    "SGD",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "Direction",
    "EMAMomentum",
    "HeavyBall",
    "NAdam",
    "Nesterov",
    "RAdam",
    "RMSProp",
    "get",
    "register",
]
