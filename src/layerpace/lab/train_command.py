"""`layerpace train` from a parsed command line to the printed summary."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from . import memory


def run(request: Mapping[str, Any], *, out: Path | None, resume: bool, overwrite: bool, shard: str, json: bool) -> None:
    """Train and print how it ended; with `json` what DONE holds. Under torchrun, as one of its processes."""
    memory.keep()
    from ..engine.common.consoles import SafeConsole
    from .parallel import processes
    from .progress import training_progress, training_summary
    from .records import to_json
    from .single import make, prepare
    from .single_folder import opened
    from .stopping import StopSignals

    # what a task of the user's prints is not part of the JSON document
    aside = redirect_stdout(sys.stderr) if json else nullcontext()
    with StopSignals() as signals, aside, processes(request["device"], shard) as team:
        restarted = team.restarted()
        training = team.in_turn(lambda: prepare(request))
        path = out or Path("runs") / f"train-{training.name}"
        with ExitStack() as stack:
            team.broadcast(lambda: stack.enter_context(opened(path, training.config, resume, overwrite, restarted)))
            shown = stack.enter_context(training_progress(SafeConsole(stderr=True), training, path, team))
            result = make(training, path, signals, shown, team)
    if not team.first:
        return
    if json:
        sys.stdout.write(to_json({"out": str(path), "config": training.config, **result}, indent=2) + "\n")
    else:
        training_summary(SafeConsole(), training, path, result)
