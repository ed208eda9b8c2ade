"""`layerpace reproduce`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import MOST_JOBS, WholeOrNone, flag

EXIT_FAILED = 3

EXAMPLES = """
Examples:

  layerpace reproduce --list                                  # every figure and table, and what there is of it

  layerpace reproduce percentdelta-figure-1                   # at the size for two cores

  layerpace reproduce rotation --scale smoke                  # all of a paper, in seconds each

  layerpace reproduce lambc-table-1 --scale paper --device cuda --data-dir /data

  layerpace reproduce all --redraw --results docs/results     # judge and draw again, without training
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def reproduce(
        *names: str,
        scale: Literal["smoke", "cpu", "paper"] = "cpu",
        list: Annotated[bool, flag] = False,
        out: Path = Path("runs/reproduce"),
        results: Path | None = None,
        redraw: Annotated[bool, flag] = False,
        page: Annotated[bool, flag] = False,
        data_dir: Path | None = None,
        device: str | None = None,
        jobs: WholeOrNone = None,
        executor: Literal["local", "ray"] = "local",
        address: str | None = None,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Rerun the figures and tables of the papers, and say which of their claims hold.

        For each recipe it makes the runs that are not finished yet, draws the figure, and prints every claim with the
        paper's figures and ours, the test that decides, and whether the claim holds. Stopped or killed, it goes on
        where it was when it is started again. Exit status 3: some recipes failed.

        Parameters
        ----------
        names
            Recipes; also all, percentdelta, rotation, lambc, overview, beyond.
        scale
            smoke: seconds, no data set needed; cpu: minutes to hours on two cores; paper: as in the paper, for GPUs.
        list
            List the recipes instead, all or those named, with the figures and tables that each covers.
        out
            Folder for the runs, shared by all recipes and scales: what two recipes need is trained once.
        results
            Folder for the results, NAME/SCALE.json and NAME/SCALE.png; by default OUT/results.
        redraw
            Make nothing: judge and draw again what is in the results.
        page
            Write the results' README.md, claim by claim, from what is there.
        data_dir
            Folder that holds the data sets; by default $LAYERPACE_DATA, or the user's cache.
        device
            cpu, cuda, ...; by default cpu, and at scale paper a GPU if there is one.
        jobs
            Runs at once; by default one a core, or one a GPU.
        executor
            As of layerpace sweep.
        address
            As of layerpace sweep.
        json
            Print one JSON document on stdout, and nothing else there.
        """
        from ..lab.recipes.reproduce_command import Settings, run

        if not names and not (list or page):
            complain("say which recipes, or all: layerpace reproduce --list shows them", EXIT_USAGE)
        if sum((list, page, redraw)) > 1:
            complain("--list, --page and --redraw: choose one", EXIT_USAGE)
        if jobs is not None and jobs < 1:
            complain(f"--jobs {jobs}: must be at least 1", EXIT_USAGE)
        if jobs is not None and jobs > MOST_JOBS:
            complain(f"--jobs {jobs}: must be at most {MOST_JOBS}", EXIT_USAGE)
        if address is not None and executor == "local":
            complain(f"--address {address}: goes with --executor ray", EXIT_USAGE)
        if json and (page or redraw):
            complain("--json goes with runs and with --list", EXIT_USAGE)
        settings = Settings(
            names=names, scale=scale, list=list, out=out, results=results, redraw=redraw, page=page,
            data_dir=data_dir, device=device, jobs=jobs, executor=executor, address=address, json=json,
        )  # fmt: skip
        failed = run(settings)
        if failed:
            complain(f"{failed} recipe{'s' * (failed != 1)} failed", EXIT_FAILED)
