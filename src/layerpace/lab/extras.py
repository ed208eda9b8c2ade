"""Packages of the extras, asked for when they are needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from ..engine.common.extras import how_to_install
from .errors import LabError


def require(modules: Iterable[str], what: str, extra: str = "lab") -> None:
    """Raise a one-line LabError that says how to install whichever of `modules` is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        names = {"sklearn": "scikit-learn", "PIL": "pillow"}
        listed = ", ".join(names.get(name, name) for name in missing)
        raise LabError(f"{what} needs {listed}: {how_to_install(extra)}")
