"""The command `layerpace`. Thin: it reads the command line, says errors in one line, and sets exit statuses.

0 done; 1 something is missing (data, a package); 2 the request is wrong; 130 and 143 stopped by Ctrl-C
and SIGTERM, with the command that goes on. What it does is in `layerpace.lab` and `layerpace.monitors`.
"""

import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

if TYPE_CHECKING:
    from cyclopts import App

NEEDED = ("cyclopts", "rich", "numpy", "matplotlib")
FOR_RUNS = ("cyclopts", "rich")  # of the commands that show runs
EXIT_USAGE = 2

EXAMPLES = """
Examples:

  layerpace compare                      # seven methods on scikit-learn's digits, under a minute

  layerpace compare --methods adam lamb:lr=0.01,clip=1 radam+trust_ratio

  layerpace compare --methods adam:lr=3e-4/1e-3/3e-3 percent-delta:lr=0.01/0.03 --seeds 5

  layerpace compare --data mnist --batch-size 500 --steps 200 --dtype bf16 --lr-grid 0.001 0.01

  layerpace compare --task my_task.py:task --out runs/mine
"""

WATCH_EXAMPLES = """
Examples:

  layerpace watch runs/2025-11-21-093000

  layerpace watch runs/mine --layers attn,mlp --sort findings

  layerpace watch runs/mine --once > now.txt
"""

REPORT_EXAMPLES = """
Examples:

  layerpace report runs/mine                     # writes runs/mine/report.html

  layerpace report runs/lamb runs/adam --out both.html

  layerpace report runs/compare-digits-d04970ca --open
"""


def complain(message: str, status: int) -> NoReturn:
    """One line on stderr, and the exit status."""
    print(f"layerpace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def make_app() -> "App":
    from cyclopts import App, Parameter

    import layerpace

    app = App(
        name="layerpace",
        help="Layer-wise optimizers for PyTorch: how fast should, and how fast does, every layer train?",
        version=getattr(layerpace, "__version__", "unknown"),
        help_format="plaintext",
    )
    many = Parameter(consume_multiple=True, negative="")
    flag = Parameter(negative="", show_default=False)

    @app.command(help_epilogue=EXAMPLES)
    def compare(
        *,
        data: Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"] = "digits",
        data_dir: Path | None = None,
        model: str | None = None,
        task: str | None = None,
        methods: Annotated[tuple[str, ...] | None, many] = None,
        lr_grid: Annotated[tuple[float, ...], many] = (),
        choose: Literal["score", "steps"] = "score",
        seeds: int = 3,
        steps: int | None = None,
        batch_size: int | None = None,
        schedule: Literal["constant", "linear", "cosine"] | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16"] = "fp32",
        threads: int | None = None,
        eval_every: int | None = None,
        eval_size: int = 2000,
        record_every: int | None = None,
        target: float | None = None,
        validation: float | None = None,
        out: Path | None = None,
        resume: Annotated[bool, flag] = False,
        overwrite: Annotated[bool, flag] = False,
        checkpoint_seconds: float = 15.0,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Train one model with several optimizers on real data: which trains best, and how evenly do its layers train?

        Every method starts from the same weights and sees the same batches. Prints a table and writes a
        folder with curves, per-layer records and plots. Stopped at any moment, it goes on with --resume.

        Parameters
        ----------
        data
            Data set. digits needs no file; the others are looked for in --data-dir, $LAYERPACE_DATA and the
            user's cache, and downloaded into the cache if absent.
        data_dir
            Folder that holds the data: DIR/mnist/..., DIR/cifar-10-batches-bin/..., or the files themselves.
        model
            digits-cnn, percentdelta-cnn, c10-cnn1-small or mlp; by default the one that goes with the data.
        task
            A task of your own instead of --data and --model: package.module:function or path/to/file.py:function,
            a function that returns a layerpace.lab.Task.
        methods
            NAME or NAME:option=value,... with NAME sgd, nesterov, adam, adamw, radam, lars, lamb, lambc,
            percent-delta, layca, ..., or DIRECTION+RULE such as radam+trust_ratio. lr=0.001/0.003 gives rates to try.
        lr_grid
            Learning rates to try for every method named without an lr.
        choose
            How a method's rate is chosen among several, on held-out training examples: the highest final score, or
            the fewest steps to the target.
        seeds
            Runs of each method and rate, with seeds 0, 1, ...
        steps
            Training steps of a run (digits: 200).
        batch_size
            Examples a step (digits: 64).
        schedule
            Of the learning rate (digits: linear; others: constant); linear falls to 1%, cosine to 0. For one method:
            NAME:schedule=constant.
        device
            cpu, cuda, cuda:1, ...
        dtype
            bf16: autocast; the weights stay fp32.
        threads
            CPU threads (digits: 1, the fastest for a model that small; others: one a core).
        eval_every
            Steps between evaluations (digits: 10).
        eval_size
            Test examples of an evaluation; the last one takes all.
        record_every
            Steps between recordings of the layers' updates; by default as --eval-every.
        target
            Score that "steps to" counts to (digits, mnist: 0.9).
        validation
            Share of the training set held out; by default 0.1 if rates are to be chosen, else 0.
        out
            Folder for the results; by default runs/compare-TASK-HASH, HASH of the settings.
        resume
            Go on with a comparison that was stopped; finished runs are not repeated.
        overwrite
            Start again in a folder that holds a comparison.
        checkpoint_seconds
            Least time between checkpoints of a run.
        json
            Print one JSON document on stdout, and nothing else there.
        """
        from .lab.command import run
        from .lab.methods import DEFAULT_METHODS

        if task is not None and (model is not None or data != "digits" or data_dir is not None):
            complain("--task brings its own data and model: leave out --data, --data-dir and --model", EXIT_USAGE)
        if resume and overwrite:
            complain("--resume goes on with what --overwrite deletes: choose one", EXIT_USAGE)
        positive = {
            "--seeds": seeds, "--steps": steps, "--batch-size": batch_size, "--threads": threads,
            "--eval-every": eval_every, "--eval-size": eval_size, "--record-every": record_every,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and value < 1:
                complain(f"{name} {value}: must be at least 1", EXIT_USAGE)
        request: dict[str, Any] = {
            "methods": DEFAULT_METHODS if methods is None else methods,
            "lr_grid": lr_grid, "choose": choose, "seeds": seeds, "steps": steps, "batch_size": batch_size,
            "schedule": schedule, "device": device, "dtype": dtype, "threads": threads, "eval_every": eval_every,
            "eval_size": eval_size, "record_every": record_every, "target": target, "validation": validation,
            "out": out, "resume": resume, "overwrite": overwrite, "checkpoint_seconds": checkpoint_seconds,
        }  # fmt: skip
        run(request, data=data, data_dir=data_dir, model=model, task=task, json=json)

    @app.command(help_epilogue=WATCH_EXAMPLES)
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
        from .monitors.terminal import WatchError
        from .monitors.terminal import watch as show

        if not 0.1 <= every <= 3600:
            complain(f"--every {every:g}: must be from 0.1 to 3600 seconds", EXIT_USAGE)
        try:
            show(run_folder, every=every, once=once, layers=layers, sort=sort, run=run)
        except WatchError as error:
            complain(str(error), EXIT_USAGE)

    @app.command(help_epilogue=REPORT_EXAMPLES)
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
        from .monitors.report.command import report as write

        if not runs:
            complain("report needs the folder of a run, such as: layerpace report runs/demo", EXIT_USAGE)
        try:
            path = write(runs, out, title)
        except (FileNotFoundError, ValueError) as error:
            complain(str(error), EXIT_USAGE)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
        if open:
            import webbrowser

            webbrowser.open(path.resolve().as_uri())

    return app


def dispatch(arguments: Sequence[str]) -> None:
    """Run one command line; raises SystemExit for every end but a plain one."""
    import cyclopts

    app = make_app()
    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        complain(f"{error} (see layerpace --help)", EXIT_USAGE)

    from .lab.errors import LabError, Stopped, one_line

    try:
        command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
    except LabError as error:
        complain(one_line(error), error.exit_status)
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that may not be written, a full disk
        complain(one_line(error), 1)
    except Stopped as stop:
        again = [a for a in arguments if a not in ("--resume", "--overwrite")]
        complain(f"stopped; to go on: layerpace {shlex.join([*again, '--resume'])}", 128 + stop.signum)


def main() -> None:
    """Entry point of the console script."""
    shows = sys.argv[1:2] in (["report"], ["watch"])
    missing = [name for name in (FOR_RUNS if shows else NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        extra = "report" if shows else "lab"
        complain(f"the layerpace command needs {', '.join(missing)}: pip install 'layerpace[{extra}]'", 1)
    try:
        dispatch(sys.argv[1:])
    except KeyboardInterrupt:
        complain("stopped", 130)
    except BrokenPipeError:  # the reader of a pipe left: nothing more to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
