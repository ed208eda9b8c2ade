"""`layerpace sweep`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import MOST_JOBS, MOST_RETRIES, Whole, WholeOrNone, flag

EXIT_FAILED = 3

EXAMPLES = """
A spec in TOML; [base], [grid] and [[runs]] have the options of layerpace train, with underscores:

  name = "rates"

  [base]
  data = "digits"
  validation = 0.1

  [grid]
  method = ["adam", "lamb"]
  lr = [0.001, 0.01]
  seed = [0, 1, 2]

  [[runs]]
  method = "percent-delta"
  lr = [0.01, 0.03]
  seed = [0, 1, 2]

Instead of lists of rates, [search] kind = "rates" finds them, and kind = "optuna" searches any of the options.
runner = "file.py:function" makes runs of your own: def function(config, folder) -> dict.

A spec is trusted: the runner and the task that it names are imported and run, whatever they are, as is a spec that is
a Python function. Read a spec of others first; a dry run of a .toml file imports none of the code that it names.

Examples:

  layerpace sweep rates.toml --dry-run

  layerpace sweep rates.toml                                # again after a stop, a kill, or with more in the spec

  layerpace sweep rates.toml --executor ray --address auto --out /shared/rates

  layerpace sweep my_sweep.py:runs --jobs 4 --json > results.json
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def sweep(
        spec: str,
        /,
        *,
        out: Path | None = None,
        executor: Literal["local", "ray"] = "local",
        address: str | None = None,
        jobs: WholeOrNone = None,
        retries: Whole = 2,
        keep_failed: Annotated[bool, flag] = False,
        dry_run: Annotated[bool, flag] = False,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Make many runs: every combination of methods, rates, seeds, data, or what a search asks for.

        Each run has a folder that is named by a digest of its settings, and is finished once DONE is in it. Started
        again, the command makes what is not finished, and nothing else; a run that was under way goes on from its
        checkpoint. A run that fails leaves its traceback in FAILED and does not stop the others. Exit status 3: some
        failed.

        Parameters
        ----------
        spec
            A .toml file, or path/to/file.py:function (package.module:function) that returns the same as a dict, or a
            list of runs; it is run with your rights, and so are the runner and the tasks that a spec names.
        out
            Folder for the runs; by default runs/sweep-NAME.
        executor
            local: processes on this machine. ray: a Ray cluster, whose nodes all see --out under the same path.
        address
            Of the Ray cluster's head: HOST:PORT, or auto on a node of it; without it $RAY_ADDRESS, or else Ray is
            started on this machine.
        jobs
            Runs at once; by default one a core, or with device = "cuda" one a GPU. They share the cores out evenly
            unless the spec gives threads; of several GPUs each run sees one.
        retries
            How often a run is tried again whose worker was lost (killed, out of memory, its node gone).
        keep_failed
            Leave runs alone that failed at an earlier start; else they are tried again.
        dry_run
            Check the spec, list the runs, write nothing, and import no code that a .toml file names.
        json
            Print one JSON document on stdout, with every run and its result, and nothing else there.
        """
        from ..lab.sweep.sweep_command import Settings, run

        if jobs is not None and jobs < 1:
            complain(f"--jobs {jobs}: must be at least 1", EXIT_USAGE)
        if jobs is not None and jobs > MOST_JOBS:
            complain(f"--jobs {jobs}: must be at most {MOST_JOBS}", EXIT_USAGE)
        if retries < 0:
            complain(f"--retries {retries}: must be 0 or more", EXIT_USAGE)
        if retries > MOST_RETRIES:
            complain(f"--retries {retries}: must be at most {MOST_RETRIES}", EXIT_USAGE)
        if address is not None and executor == "local":
            complain(f"--address {address}: goes with --executor ray", EXIT_USAGE)
        failed = run(Settings(spec, out, executor, address, jobs, retries, keep_failed, dry_run, json))
        if failed:
            complain(f"{failed} run{'s' * (failed != 1)} failed: the traceback is in FAILED in its folder", EXIT_FAILED)
