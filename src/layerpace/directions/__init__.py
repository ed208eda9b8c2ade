"""Directions: g, w, state -> u, one file a family."""

from layerpace.directions.adagrad import AdaDelta, AdaGrad
from layerpace.directions.adam import Adam, AdaMax, AMSGrad, NAdam, RAdam
from layerpace.directions.base import Direction
from layerpace.directions.rmsprop import RMSProp
from layerpace.directions.sgd import SGD, EMAMomentum, HeavyBall, Nesterov

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

BY_NAME: dict[str, type[Direction]] = {name: cls for cls in ALL for name in cls.names}


def get(direction: str | Direction) -> Direction:
    """The direction of that name with its defaults, or the direction itself.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a direction; a class is not an instance.
    """
    if isinstance(direction, Direction):
        return direction
    if not isinstance(direction, str):
        raise TypeError(f"direction must be a name or an instance such as directions.Adam(), got {direction!r}")
    if direction not in BY_NAME:
        raise ValueError(f"direction must be one of {', '.join(map(repr, BY_NAME))}, got {direction!r}")
    return BY_NAME[direction]()


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
]
