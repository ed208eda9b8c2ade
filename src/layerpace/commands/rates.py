"""`layerpace rates`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import flag

EXAMPLES = """
Examples:

  layerpace rates runs/adamw                 # a run that layerpace.Monitor recorded of what you have

  layerpace rates runs/compare-digits --run adamw-s0-1bf2c2e3 --json
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def rates(run_folder: Path, /, *, run: str | None = None, json: Annotated[bool, flag] = False) -> None:
        """Rates that carry over: from a run of a tuned AdamW or SGD, those of LAMB, LARS, PercentDelta and Layca.

        At these rates the methods move the median matrix as far per step as the run did. See docs/monitors.md.

        Parameters
        ----------
        run_folder
            Folder of a run that layerpace.Monitor recorded, or one that holds several runs.
        run
            Name of the run, where the folder holds several.
        json
            Print one JSON document.
        """
        import json as text

        from ..engine.common.printable import printable_lines
        from ..monitors.equivalent import NoRates, equivalent_rates
        from ..monitors.folder import find, load

        folders = {folder.name: folder for folder in find(run_folder)} if run_folder.is_dir() else {}
        if not folders:
            complain(f"no recorded run in {run_folder}", EXIT_USAGE)
        if run is None and len(folders) > 1:
            complain(f"{run_folder} holds several runs; pass --run with one of: {', '.join(folders)}", EXIT_USAGE)
        if run is not None and run not in folders:
            complain(f"no run {run!r} in {run_folder}; there is: {', '.join(folders)}", EXIT_USAGE)
        chosen = next(iter(folders.values())) if run is None else folders[run]
        try:
            found = equivalent_rates(load(chosen)[0])
        except NoRates as error:
            complain(str(error), EXIT_USAGE)
        if json:
            methods = {
                name: {"options": rate.options(), "quartiles": [rate.low, rate.high], "layers": rate.layers}
                for name, rate in found.items()
            }
            document = {"source": found.source, "steps": found.steps, "methods": methods, "assumes": found.assumes}
            sys.stdout.write(text.dumps(document, indent=2) + "\n")
        else:
            print(printable_lines(found))
