"""Directions: g, w, state -> u, one file a family."""

from layerpace.directions.adagrad import AdaDelta, AdaGrad
from layerpace.directions.adam import Adam, AdaMax, AMSGrad, NAdam, RAdam
from layerpace.directions.base import Direction
from layerpace.directions.rmsprop import RMSProp
from layerpace.directions.sgd import SGD, EMAMomentum, HeavyBall, Nesterov
from layerpace.engine.common.checks import by_name

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
    """The direction of that name with its defaults, or the direction itself."""
    return by_name("direction", direction, Direction, BY_NAME)


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
