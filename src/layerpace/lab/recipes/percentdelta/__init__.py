"""The recipes of the PercentDelta paper."""

from __future__ import annotations

from ..recipe import Recipe
from . import accuracy, updates
from . import section_6_1 as settings

RECIPES: tuple[Recipe, ...] = (
    updates.RECIPE,
    accuracy.RECIPE,
    *settings.RECIPES,
)
