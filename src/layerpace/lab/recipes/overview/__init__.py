"""The recipes of the overview: what its slides show, and the studies of batch sizes that it names."""

from __future__ import annotations

from ..recipe import Recipe
from . import momentum, quadratic, scaling

RECIPES: tuple[Recipe, ...] = (*momentum.RECIPES, *scaling.RECIPES, *quadratic.RECIPES)
