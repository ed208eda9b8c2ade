"""What a dry run does with code that is not layerpace's: a runner, or the task of a training. It imports none of it.

So a run is known by its request alone: the folder of an earlier run with the same request counts as its folder, whether
the code has been changed since or not. What a training is asked for is checked as far as that needs no task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import single
from ..records import digest
from .protocol import REQUEST, Request
from .runner import Runner, resolve
from .runs import Run, Runs, read
from .spec import RUNNER, Spec

OWN = "layerpace."  # modules that a dry run imports


def foreign(spec: Spec) -> str | None:
    """The first code of others that the spec names, as it is written there; None: there is none."""
    if not spec.runner.startswith(OWN):
        return f"runner = {spec.runner!r}"
    space = spec.search.get("space")
    choices = space.get("task", ()) if isinstance(space, Mapping) else ()
    named = [request.get("task") for request in spec.requests] + list(choices)
    return next((f"task = {task!r}" for task in named if task is not None and not str(task).startswith(OWN)), None)


class UnseenRuns(Runs):
    """The runs of a sweep, without their runner."""

    def __init__(self, out: Path, spec: Spec) -> None:
        super().__init__(out, Runner(spec.runner, checked, checked if spec.runner == RUNNER else None, frozenset(), ""))
        found = {path.parent: read(path) for path in sorted(self.out.glob(f"runs/*/{REQUEST}"))}
        self.there = {digest(request): (request, folder) for folder, request in found.items() if request}

    def add(self, request: Request) -> tuple[Run, bool]:
        made = resolve(self.runner, request)
        _, folder = self.there.get(digest(json.loads(json.dumps(request))), (None, self.out / "runs" / made.name))
        known = self.by_folder.get(folder)
        if known is not None:
            known.requests.append(request)
            return known, False
        run = self.by_folder[folder] = Run(made, folder, [request])
        return run, True

    def earlier(self) -> Iterator[tuple[Request, Path]]:
        yield from self.there.values()


def checked(request: Request) -> dict[str, Any]:
    """The options of a training, its task aside."""
    options, _ = single.options_of(request)
    return options
