"""`layerpace compare` from a parsed command line to the printed table; under torchrun, as one of its processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from . import memory


def run(
    request: Mapping[str, Any], *, data: str, data_dir: Path | None, model: str | None, task: str | None, json: bool
) -> None:
    """Make the comparison and print it: a table on stdout, or with `json` the whole of results.json."""
    memory.keep()
    from ..engine.common.consoles import SafeConsole
    from .compare import Nobody, compare
    from .compare_plan import Request
    from .models import DEFAULT_MODEL
    from .parallel import is_main, processes
    from .plots import draw
    from .progress import reporter
    from .records import to_json
    from .report import show
    from .stopping import StopSignals
    from .tasks import built_in, from_reference

    console = SafeConsole(stderr=True)

    def warn(message: str) -> None:
        if is_main():
            console.print(message, style="yellow", soft_wrap=True, highlight=False, markup=False)

    # what a task of the user's prints is not part of the JSON document
    aside = redirect_stdout(sys.stderr) if json else nullcontext()
    with StopSignals() as signals, aside, processes(request["device"], request["shard"]) as team:
        made = team.in_turn(lambda: from_reference(task) if task is not None else built_in(data, model, data_dir, warn))
        named = (model or DEFAULT_MODEL[data]) if task is None else None
        with reporter(console) if team.first else nullcontext(Nobody()) as progress:
            results = compare(Request(**request, model=named), made, progress, signals, draw, team)
    if not team.first:
        return
    if json:
        sys.stdout.write(to_json(results, indent=2) + "\n")
    else:
        show(SafeConsole(), results)
