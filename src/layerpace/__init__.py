"""layerpace: layer-wise optimizers for PyTorch, and instruments that show how fast every layer trains."""

from layerpace import directions, integrations, layers, monitors, rules, schedules
from layerpace.monitors import Monitor
from layerpace.optim import LAMB, LAMBC, LARS, Layca, Layerwise, PercentDelta
from layerpace.wrap import Wrapped, wrap

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "LAMBC",
    "LARS",
    "Layca",
    "Layerwise",
    "Monitor",
    "PercentDelta",
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
