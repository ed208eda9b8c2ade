"""`layerpace report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App

from ..engine.common.printable import printable
from . import EXIT_USAGE, complain, say
from .options import flag

EXAMPLES = """
Examples:

  layerpace report runs/mine                     # writes runs/mine/report.html

  layerpace report runs/lamb runs/adam --out both.html

  layerpace report runs/compare-digits-d04970ca --open
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def report(
        *runs: Path,
        out: Path | None = None,
        title: str | None = None,
        open: Annotated[bool, flag] = False,
    ) -> None:
        """Write one HTML file that shows runs: results, findings, and how fast every layer trained.

        The file needs no network and no server. Prints its path and its size.

        Parameters
        ----------
        runs
            Folders of runs that layerpace.Monitor recorded, or of layerpace compare; also of runs that go on still.
        out
            The file; by default report.html in the folder, or here for several folders.
        title
            Of the page; by default made from the runs.
        open
            Show it in the browser.
        """
        from ..monitors.report.report_command import report as write

        if not runs:
            complain("report needs the folder of a run, such as: layerpace report runs/demo", EXIT_USAGE)
        try:
            path = write(runs, out, title, say)
        except (FileNotFoundError, ValueError) as error:
            complain(str(error), EXIT_USAGE)
        print(f"{printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")
        if open:
            import webbrowser

            webbrowser.open(path.resolve().as_uri())
