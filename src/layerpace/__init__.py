"""layerpace: layer-wise optimizers for PyTorch, and instruments that show how fast every layer trains."""

import sys
from types import ModuleType

from layerpace import directions, integrations, layers, monitors, moved, rules, schedules
from layerpace.engine.numerics.tensors import Tensors
from layerpace.monitors import Monitor
from layerpace.optim import LAMB, LAMBC, LARS, Layca, Layerwise, PercentDelta
from layerpace.optim.wrap import Wrapped, wrap

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "LAMBC",
    "LARS",
    "Layca",
    "Layerwise",
    "Monitor",
    "PercentDelta",
    "Tensors",
    "Wrapped",
    "__version__",
    "directions",
    "integrations",
    "layers",
    "monitors",
    "rules",
    "schedules",
    "wrap",
]

moved.install()
# `layerpace.wrap` is the function. The module that once had this path is there for `from layerpace.wrap import wrap`,
# and in place before anyone imports it: importing would put it where the function is.
sys.modules["layerpace.wrap"] = sys.modules["layerpace.optim.wrap"]


def __getattr__(name: str) -> ModuleType:
    return moved.attribute(name)
