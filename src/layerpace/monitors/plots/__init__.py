"""Pictures of a run with matplotlib (``pip install 'layerpace[report]'``).

Each function takes a `Monitor`, a `Run` or a `History` and ``ax=``, axes to draw into, and returns the axes. Without
``ax`` it makes a figure of its own, outside of pyplot: ``curves(run, "grad_norm").figure.savefig("norms.png")``.
"""

from __future__ import annotations

from .by_layer import multipliers, relative_updates, second_moments
from .heat import trust_ratios
from .lines import curves, norms, rotation_curves
from .overview import overview

__all__ = [
    "curves",
    "multipliers",
    "norms",
    "overview",
    "relative_updates",
    "rotation_curves",
    "second_moments",
    "trust_ratios",
]
