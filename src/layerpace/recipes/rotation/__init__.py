"""The layer rotation paper's figures and tables: all recipes of it.

The trainings that figures share are `family`'s, on the tasks of `trainings`.
"""

from __future__ import annotations

from ..recipe import Recipe
from . import (
    curves,
    further,
    layers,
    losses,
    mlps,
    models,
    search,
    summary,
)

RECIPES: tuple[Recipe, ...] = (
    *mlps.RECIPES,
    *search.RECIPES,
    *curves.RECIPES,
    *losses.RECIPES,
    *layers.RECIPES,
    *models.RECIPES,
    *further.RECIPES,
    *summary.RECIPES,
)
