"""`layerpace results`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import flag, many

EXAMPLES = """
Examples:

  layerpace results runs                              # what differs, and how each run did

  layerpace results runs/sweep --sort test_score --descending --where method=lamb

  layerpace results runs --out results.parquet        # for pandas.read_parquet, polars.read_parquet

  layerpace results runs --curves --out curves.csv    # a row an evaluation
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def results(
        *folders: Path,
        out: Path | None = None,
        columns: Annotated[tuple[str, ...], many] = (),
        sort: str | None = None,
        descending: Annotated[bool, flag] = False,
        where: Annotated[tuple[str, ...], many] = (),
        curves: Annotated[bool, flag] = False,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Collect runs into one table: a row a run, with what it was made of and what came out.

        It finds the runs of compare, train, sweep and layerpace.Monitor in and beneath the folders, finished or not.
        From Python: layerpace.lab.results.collect(folders).

        Parameters
        ----------
        folders
            Folders of runs, or with such beneath them.
        out
            Write to a file instead: .parquet (needs pyarrow), .csv or .json.
        columns
            Names, also with *: folder status lr options.* test_score; by default all in a file, and what tells the runs
            apart on a terminal.
        sort
            Column to sort by; rows that have nothing there come last.
        descending
            Highest first.
        where
            KEY=VALUE: only these runs; several must all hold; KEY= for those that have nothing there.
        curves
            A row an evaluation instead: the run, the step, its figures.
        json
            Print one JSON document on stdout, and nothing else there.
        """
        from ..lab.results.results_command import run

        if not folders:
            complain("results needs a folder of runs, such as: layerpace results runs", EXIT_USAGE)
        run(
            folders, out=out, columns=columns, sort=sort, descending=descending, conditions=where, curves=curves,
            json=json,
        )  # fmt: skip
