"""What is to be made: a TOML file, or a Python function that returns the same as a dict (or a list of runs).

    name = "rates"                              # of the folder: runs/sweep-NAME; by default the file's
    runner = "layerpace.lab.single:run"         # the default: a training; or file.py:function for anything else
    objective = "validation_score"              # which figure says how good a run is; mode = "max" (default) or "min"

    [base]                                      # what all runs share: options of `layerpace train`
    data = "mnist"
    steps = 200

    [grid]                                      # lists, every combination of them: see `grid`
    method = ["lamb", "lars", "layca"]
    seed = [0, 1, 2]

    [[runs]]                                    # runs, or further grids, beside it
    method = "sgd"
    lr = [0.1, 0.3]

    [search]                                    # finds what the grid leaves open: kind = "rates", "optuna"
    kind = "rates"

Paths in it are relative to the folder in which the sweep is started, as on the command line.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, one_line
from ..methods import guess, slug
from ..tasks import from_file, from_module
from .grid import enough, product
from .objective import Objective
from .protocol import Request

RUNNER = "layerpace.lab.single:run"
KEYS = ("name", "runner", "objective", "mode", "base", "grid", "runs", "search")
KINDS = ("grid", "rates", "optuna")  # each is a module of this package


@dataclass(frozen=True)
class Spec:
    """A sweep, as far as it can be checked without its runner.

    Attributes:
        name: of its folder.
        runner: reference of what makes a run.
        requests: the runs of the grid and beside it, [base] in each; at least one.
        search: the table [search]; `kind` is there always, and the objective if the spec has one.
        table: the whole as it was read, JSON-like.
    """

    name: str
    runner: str
    requests: tuple[Request, ...]
    search: Mapping[str, Any]
    objective: Objective
    table: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.search["kind"])


def load(source: str) -> Spec:
    """The sweep of a TOML file's path, or of file.py:function or package.module:function.

    Raises:
        UsageError: there is no such file, or what it says is wrong: the key, and what is allowed.
    """
    path = Path(source)
    if path.suffix == ".toml":
        try:
            table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else one_line(error)
            raise UsageError(f"{source}: {reason}") from None
        except RecursionError:
            raise UsageError(f"{source}: lists and tables are nested too deep") from None
        return check(table, path.stem, source)
    place, colon, function = source.rpartition(":")
    if not colon:
        raise UsageError(f"{source}: a sweep is a .toml file, path/to/file.py:function or package.module:function")
    try:
        module = from_file(Path(place)) if place.endswith(".py") else from_module(place)
        table = getattr(module, function)()
    except Exception as error:  # whatever a user's file raises
        raise UsageError(f"{source}: {type(error).__name__}: {one_line(error)}") from error
    return check(table, function, source)


def check(table: Any, name: str, source: str) -> Spec:
    """A spec of a mapping, or of a list of runs; `name` is its name if it gives none.

    Raises:
        UsageError: the key that is wrong, and what is allowed.
    """
    if isinstance(table, list | tuple):  # written out by a program: lists in them are values
        requests = [dict(typed(run, Mapping, "a run", "a dict")) for run in table]
        table = {"runs": requests}
    else:
        typed(table, Mapping, source, "a dict, or a list of dicts")
        for key in table:
            if key not in KEYS:
                raise UsageError(f"{source}: unknown key {key!r}{guess(str(key), KEYS)}; known: {', '.join(KEYS)}")
        requests = requests_of(table)
    if not requests:
        raise UsageError(f"{source}: it names no run")
    enough(len(requests), source)
    json_like(table, source)
    called = table.get("name", name)
    if not isinstance(called, str) or not slug(called):
        raise UsageError(f"{source}: name = {called!r}: must be text with a letter or digit")
    runner = table.get("runner", RUNNER)
    if not isinstance(runner, str) or ":" not in runner:
        raise UsageError(f"{source}: runner = {runner!r}: write package.module:function or path/to/file.py:function")
    search = {"kind": "grid", **{key: table[key] for key in ("objective", "mode") if key in table}}
    search.update(typed(table.get("search", {}), Mapping, "search", "a table"))
    if search["kind"] not in KINDS:
        raise UsageError(f"{source}: [search] kind = {search['kind']!r}: choose from {', '.join(KINDS)}")
    spec = Spec(called, runner, tuple(requests), search, Objective.of(search), dict(table))
    if spec.kind != "grid" and runner == RUNNER:
        held_out(spec, source)
    return spec


def held_out(spec: Spec, source: str) -> None:
    """Refuse a search over runs that would choose by examples which it does not hold out.

    Raises:
        UsageError: `validation` is missing or 0 somewhere, and the objective is not another figure by name.
    """
    space = spec.search.get("space")
    searched = isinstance(space, Mapping) and "validation" in space
    missing = [request for request in spec.requests if not request.get("validation")]
    if missing and not searched and spec.objective.key in (None, "validation_score"):
        given = missing[0].get("validation", "not given")
        raise UsageError(
            f"{source}: [search] needs held-out examples to choose by, and validation is {given}: "
            "add validation = 0.1 to [base], or name another figure, such as objective = 'test_score'"
        )


def requests_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of [grid] and [[runs]], or [base] alone where there is neither."""
    base = dict(typed(table.get("base", {}), Mapping, "base", "a table: [base]"))
    grid = typed(table.get("grid", {}), Mapping, "grid", "a table: [grid]")
    runs = typed(table.get("runs", []), list, "runs", "a list of tables: [[runs]]")
    for key, value in grid.items():
        if not isinstance(value, list | tuple):
            raise UsageError(f"[grid] {key} = {value!r}: must be a list; what all runs share belongs to [base]")
    found = product(grid, "[grid]") if grid else []
    for run in runs:
        found += product(typed(run, Mapping, "runs", "a list of tables: [[runs]]"), "[[runs]]")
        enough(len(found), "[[runs]]")
    if not grid and not runs:
        found = [{}]
    return [{**base, **request} for request in found]


def typed(value: Any, kind: type[Any], where: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{where}: must be {wanted}, got {type(value).__name__}")
    return value


def json_like(value: Any, where: str) -> None:
    """Raise a UsageError for what JSON cannot hold, naming its key: such a run would have no digest."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UsageError(f"{where}: key {key!r} must be text")
            json_like(item, f"{where} {key}")
    elif isinstance(value, list | tuple):
        for item in value:
            json_like(item, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{where} = {value}: must be a finite number")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{where}: a whole number of {value.bit_length()} bits: must be below 2^63 in size")
    elif not isinstance(value, str | int | None):
        raise UsageError(f"{where} = {value!r}: must be text, a number, true or false, a list or a table of these")
