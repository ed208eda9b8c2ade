"""`layerpace watch`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import flag

EXAMPLES = """
Examples:

  layerpace watch runs/2025-11-21-093000

  layerpace watch runs/mine --layers attn,mlp --sort findings

  layerpace watch runs/mine --once > now.txt
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def watch(
        run_folder: Path,
        /,
        *,
        every: float = 1.0,
        once: Annotated[bool, flag] = False,
        layers: str | None = None,
        sort: Literal["layer", "relative-update", "findings"] = "layer",
        run: str | None = None,
    ) -> None:
        """Show a run in the terminal while it trains: a row a layer, and what seems wrong.

        It reads the run's files alone, so that it can be started, stopped and started again at any time, also on a
        remote machine. It ends with the run, or with Ctrl-C. Flags: E error, W warning, N note.

        Parameters
        ----------
        run_folder
            Folder of a run that layerpace.Monitor records, of layerpace compare, or one that holds several runs: then
            the run written last is shown.
        every
            Seconds between two looks at the files.
        once
            Print one table and exit, without colours if the output is no terminal.
        layers
            Layers to show: a part of the name, or a glob such as '*.attn.*'; several with commas between.
        sort
            Order of the rows: from input to output, largest relative update first, or worst finding first.
        run
            Name of the run to show, of those in the folder.
        """
        from ..monitors.terminal import WatchError
        from ..monitors.terminal import watch as show

        if not 0.1 <= every <= 3600:
            complain(f"--every {every:g}: must be from 0.1 to 3600 seconds", EXIT_USAGE)
        try:
            show(run_folder, every=every, once=once, layers=layers, sort=sort, run=run)
        except WatchError as error:
            complain(str(error), EXIT_USAGE)
