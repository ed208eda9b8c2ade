"""Import paths of 0.1.0 that have moved since: each is the very module of its new place, without a warning.

Specs, kept results and pickles name modules, and user code imports them: ``layerpace.recipes.tasks:load``,
``from layerpace.columns import Table``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ENGINE = ("apart", "backends", "broadcast", "buckets", "entries", "plan", "rows", "step")
COMMON = ("checks", "consoles", "extras", "fake", "files", "parts", "printable", "signatures")
NUMERICS = ("columns", "precision", "tensors")

# Old path -> new path, both below `layerpace`; the longest that fits wins.
MOVED: dict[str, str] = {
    **{name: f"engine.{name}" for name in ENGINE},
    **{name: f"engine.common.{name}" for name in COMMON},
    **{name: f"engine.numerics.{name}" for name in NUMERICS},
    "clips": "rules.clips",
    "held": "engine.sharding.shards",
    "matching": "layers.matching",
    "sharding": "engine.sharding.collectives",
    "wrap": "optim.wrap",
    "wrappers": "layers.wrappers",
    "optim.fitting": "engine.fitting",
    "optim.keeping": "engine.cache",
    "optim.loading": "optim.saving",
    "optim.matching": "optim.state_names",
    "optim.support": "engine.support",
    "optim.turns": "engine.turns",
    "optim.zeros": "engine.zeros",
    "lab.command": "lab.compare_command",
    "lab.command_train": "lab.train_command",
    "lab.meeting": "lab.rendezvous",
    "lab.plan": "lab.compare_plan",
    "lab.results.command": "lab.results.results_command",
    "lab.results.rows": "lab.results.run_rows",
    "lab.settings": "lab.run_settings",
    "lab.summary": "lab.compare_summary",
    "lab.sweep.command": "lab.sweep.sweep_command",
    "lab.sweep.summary": "lab.sweep.sweep_summary",
    "monitors.report.command": "monitors.report.report_command",
    "recipes": "lab.recipes",
    "recipes.command": "lab.recipes.reproduce_command",
    "recipes.lambc.layers": "lab.recipes.lambc.ratios_by_layer",
    "recipes.making": "lab.recipes.provenance",
    "recipes.percentdelta.compare": "lab.recipes.percentdelta.section_6_1_runs",
    "recipes.percentdelta.plan": "lab.recipes.percentdelta.figure_2_runs",
    "recipes.percentdelta.rows": "lab.recipes.percentdelta.figure_2_picture",
    "recipes.percentdelta.settings": "lab.recipes.percentdelta.section_6_1",
    "recipes.rotation.layers": "lab.recipes.rotation.figures_10_11",
}

PACKAGE = "layerpace."


def new_path(name: str) -> str | None:
    """Where the module of an old path is now; None: it has not moved."""
    if not name.startswith(PACKAGE):
        return None
    parts = name.removeprefix(PACKAGE).split(".")
    for k in range(len(parts), 0, -1):
        new = MOVED.get(".".join(parts[:k]))
        if new is not None:
            return PACKAGE + ".".join([new, *parts[k:]])
    return None


class _Alias(Loader):
    """Gives an old path the module of the new one."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.path)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # importlib has put that of the old path there


class Finder(MetaPathFinder):
    """Finds old paths; asked before the file system, which would load a second copy of ``recipes.tasks``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = new_path(fullname)
        return None if new is None else ModuleSpec(fullname, _Alias(new))


def install() -> None:
    """Make the old paths importable; once per process."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def attribute(name: str) -> ModuleType:
    """``layerpace.columns`` and its kind as attributes of the package, as importing it has always made them.

    Raises:
        AttributeError: no module was ever called that.
    """
    if name not in MOVED:
        raise AttributeError(f"module 'layerpace' has no attribute {name!r}")
    return import_module(PACKAGE + MOVED[name])
