"""The layer rotation paper's figures and tables: all recipes of it.

The runs that figures share are `family`'s, on the tasks of `trainings`.
"""

from __future__ import annotations

from ..recipe import Recipe
from . import alphas, coincide, curves, further, losses, mlps, models, search, summary
from . import figures_10_11 as layers

# Figures, tables, and what has no number.
RECIPES: tuple[Recipe, ...] = (
    *mlps.RECIPES,
    *alphas.RECIPES,
    *curves.FIGURES,
    *losses.RECIPES,
    *coincide.FIGURES,
    *layers.RECIPES,
    *models.FIGURES,
    *models.TABLES,
    *curves.TABLES,
    *search.RECIPES,
    *coincide.OTHERS,
    *summary.RECIPES,
    *further.RECIPES,
)
