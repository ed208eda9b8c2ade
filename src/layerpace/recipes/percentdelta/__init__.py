"""The recipes of the PercentDelta paper."""

from __future__ import annotations

from ..recipe import Recipe
from . import accuracy, settings, updates

RECIPES: tuple[Recipe, ...] = (
    updates.RECIPE,
    accuracy.RECIPE,
    *settings.RECIPES,
)
