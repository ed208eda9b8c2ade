"""What the papers leave open: does one learning rate serve all?"""

from __future__ import annotations

from ..recipe import Recipe
from . import one_rate

RECIPES: tuple[Recipe, ...] = one_rate.RECIPES
