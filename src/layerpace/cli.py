"""The command `layerpace`. Thin: it reads the command line, says errors in one line, and sets exit statuses.

0 done; 1 something is missing (data, a package); 2 the request is wrong; 3 some runs of a sweep or some recipes failed;
130 and 143 stopped by Ctrl-C and SIGTERM, with the command that goes on. What it does is in `layerpace.lab` and
`layerpace.monitors`.
"""

import contextlib
import errno
import importlib.util
import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .commands import EXIT_USAGE, complain
from .engine.common.extras import how_to_install

if TYPE_CHECKING:
    from cyclopts import App

NEEDED = ("cyclopts", "rich", "numpy", "matplotlib")
FOR_RUNS = ("cyclopts", "rich")  # of the commands that show runs


def make_app() -> "App":
    from cyclopts import App

    import layerpace

    from .commands import compare, rates, report, reproduce, results, sweep, train, watch

    app = App(
        name="layerpace",
        help="Layer-wise optimizers for PyTorch: how fast should, and how fast does, every layer train?",
        version=getattr(layerpace, "__version__", "unknown"),
        help_format="plaintext",
    )
    for command in (compare, train, sweep, reproduce, watch, report, rates, results):
        command.add(app)
    return app


def dispatch(arguments: Sequence[str]) -> None:
    """Run one command line; raises SystemExit for every end but a plain one."""
    import cyclopts

    app = make_app()
    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        complain(f"{error} (see layerpace --help)", EXIT_USAGE)

    from .engine.common.files import FileError
    from .lab.errors import LabError, Stopped, one_line

    try:
        command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
    except LabError as error:
        complain(one_line(error), error.exit_status)
    except FileError as error:  # one that is there and cannot be read
        complain(one_line(error), EXIT_USAGE)
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that may not be written, a full disk
        wrong = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)  # no file can have such a name
        complain(one_line(error), EXIT_USAGE if wrong else 1, each=not wrong)
    except Stopped as stop:
        kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
        again = shlex.join([*kept, "--resume"] if stop.resume else kept)
        by = "torchrun ... " if "WORLD_SIZE" in os.environ else ""
        complain(f"stopped; to go on: {by}layerpace {again}", 128 + stop.signum)


def main() -> None:
    """Entry point of the console script."""
    shows = sys.argv[1:2] in (["report"], ["watch"], ["rates"])
    missing = [name for name in (FOR_RUNS if shows else NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        extra = "report" if shows else "lab"
        complain(f"the layerpace command needs {', '.join(missing)}: {how_to_install(extra)}", 1)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have letters that the encoding of a terminal lacks
        sys.stdout.reconfigure(errors="replace")
    try:
        run(sys.argv[1:])
    except SystemExit as end:
        leave(end.code)
        raise
    leave(None)


def run(arguments: Sequence[str]) -> None:
    """`dispatch`, with the ends that a terminal or a pipe makes."""
    try:
        dispatch(arguments)
    except KeyboardInterrupt:
        complain("stopped", 130)
    except BrokenPipeError:  # the reader of a pipe left: nothing more to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def leave(status: object) -> None:
    """End a process of torchrun's here, without Python's own way out; any other one goes on.

    gloo's threads live as long as the process, whatever is destroyed. One that lets go of a tensor while Python is
    taken down aborts the process, although all that it was for is done: one in ten, where cores are short.
    """
    if "WORLD_SIZE" in os.environ and (status is None or isinstance(status, int)):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status or 0)
