"""What makes a run: a function of (config, folder) that returns a JSON-like dict, and how requests become configs.

A module may have a function `resolve` beside it, which checks a request and fills in every default, as
`layerpace.lab.single` has. Without one the request is the config, with the function's name and a digest of its source
in it: once the source is changed, its runs are others; moved to another folder they stay the same.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LabError, UsageError, one_line
from ..methods import slug
from ..records import digest, to_json
from ..tasks import from_file, from_module, source_digest
from .protocol import Request

DIGITS = 12


@dataclass(frozen=True)
class Runner:
    """A runner, imported.

    Attributes:
        options: what `function` takes by keyword.
        digest: of its source; "" for one that resolves requests itself.
    """

    reference: str
    function: Callable[..., Any]
    resolve: Callable[[Request], Mapping[str, Any]] | None
    options: frozenset[str]
    digest: str

    @classmethod
    def of(cls, reference: str) -> Runner:
        """Import it; UsageError if it cannot be, or is no function."""
        place, _, name = reference.rpartition(":")
        try:
            module = from_file(Path(place)) if place.endswith(".py") else from_module(place)
        except Exception as error:  # whatever a user's file raises
            raise UsageError(f"runner = {reference!r}: {type(error).__name__}: {one_line(error)}") from error
        function = getattr(module, name, None)
        if not callable(function):
            raise UsageError(f"runner = {reference!r}: {place} has no function {name!r}")
        resolve = getattr(module, "resolve", None)
        return cls(reference, function, resolve, keywords(function), "" if resolve else source_digest(module))

    def config(self, request: Request) -> dict[str, Any]:
        """The config of a request; UsageError if the runner's `resolve` refuses it."""
        if self.resolve is None:
            place, _, name = self.reference.rpartition(":")
            return {**request, "runner": {"function": name, "source": self.digest or place}}
        try:
            return dict(self.resolve(request))
        except LabError:
            raise
        except Exception as error:
            raise UsageError(f"{short(request)}: {type(error).__name__}: {one_line(error)}") from error


def keywords(function: Callable[..., Any]) -> frozenset[str]:
    """Names of the parameters beyond (config, folder)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a callable that does not tell
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [parameter for parameter in parameters if parameter.kind in kinds]
    return frozenset(parameter.name for parameter in named[2:])


@dataclass(frozen=True)
class Resolved:
    """One run, with everything decided but the CPU threads that it may use where the request leaves them open.

    Attributes:
        name: of its folder: METHOD-lrRATE-sSEED-DIGEST, or RUNNER-...; the digest is of the config.
        threads: as many as are of use, where the config says so.
        open: the config is to have them, and the request leaves them open. They are no part of the digest then, so
            that a sweep goes on with the same runs on another machine, or with other --jobs.
        options: what the runner takes by keyword and the result does not depend on.
    """

    request: Request
    config: Mapping[str, Any]
    name: str
    threads: int | None
    open: bool
    options: Mapping[str, Any]


def resolve(runner: Runner, request: Request) -> Resolved:
    """Check one request in full.

    Raises:
        UsageError: the runner refuses it.
        LabError: it needs what is not here, such as data.
    """
    config = json.loads(to_json(runner.config(request)))
    threads = request.get("threads")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads = {threads!r}: must be a whole number, at least 1")
    left_open = threads is None and runner.resolve is not None and "threads" in config
    if left_open:
        threads = config.pop("threads")
    aside = {key: request[key] for key in request if key in runner.options and key not in config}
    words = [str(config["method"]) if "method" in config else runner.reference.rpartition(":")[2]]
    words += [f"{mark}{config[key]:g}" for key, mark in (("lr", "lr"), ("seed", "s")) if number(config.get(key))]
    name = f"{slug(' '.join(words))[:80]}-{digest(config, DIGITS)}"
    return Resolved(dict(request), config, name, threads, left_open, aside)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(request: Request) -> str:
    """A request on one line."""
    return ", ".join(f"{key} = {value!r}" for key, value in request.items())
