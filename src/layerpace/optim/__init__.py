"""Methods: one file each, a direction and a rule."""

from layerpace.optim.base import Layerwise
from layerpace.optim.lamb import LAMB, LAMBC
from layerpace.optim.lars import LARS
from layerpace.optim.layca import Layca
from layerpace.optim.percent_delta import PercentDelta

__all__ = ["LAMB", "LAMBC", "LARS", "Layca", "Layerwise", "PercentDelta"]
