"""*Improving layer-wise adaptive rate methods using trust ratio clipping*: its table, figures and future work."""

from __future__ import annotations

from ..recipe import Recipe
from .bounds import ADAPTIVE_BOUNDS, FIGURE_2
from .imagenet import FIGURE_3
from .ratios_by_layer import LAYERS
from .table import TABLE_1

RECIPES: tuple[Recipe, ...] = (TABLE_1, FIGURE_2, ADAPTIVE_BOUNDS, LAYERS, FIGURE_3)
