"""All recipes by name; a package for each paper has its own, RECIPES."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence

from ..errors import UsageError
from ..methods import guess
from .recipe import PAPERS, Recipe

KINDS = ("figure", "table")


def recipes() -> dict[str, Recipe]:
    """Every recipe by its name, paper by paper.

    Raises:
        ValueError: two of one name.
    """
    found: dict[str, Recipe] = {}
    for paper in PAPERS:
        for recipe in importlib.import_module(f"{__package__}.{paper}").RECIPES:
            if recipe.name in found:
                raise ValueError(f"there are two recipes {recipe.name!r}")
            found[recipe.name] = recipe
    order = list(PAPERS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].paper), place(item[0]))))


def place(name: str) -> tuple[int, int, str]:
    """Figures by their number, then tables, then the rest as the paper's package has it."""
    found = re.search(r"-(figure|table)-(\d+)(\w*)$", name)
    return (KINDS.index(found[1]), int(found[2]), found[3]) if found else (len(KINDS), 0, "")


def chosen(names: Sequence[str]) -> list[Recipe]:
    """The recipes of these names; "all", or a paper's name, stands for many.

    Raises:
        UsageError: a name that there is not.
    """
    known = recipes()
    found: dict[str, Recipe] = {}
    for name in names:
        some = [recipe for recipe in known.values() if name in ("all", recipe.name, recipe.paper)]
        if not some:
            raise UsageError(
                f"there is no recipe {name!r}{guess(name, [*known, *PAPERS])}: layerpace reproduce --list shows them, "
                f"and all, {', '.join(PAPERS)} stand for several"
            )
        found.update({recipe.name: recipe for recipe in some})
    return list(found.values())
