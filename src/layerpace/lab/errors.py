"""What the lab says when it cannot go on: one line for the user, and an exit status."""

from __future__ import annotations


class LabError(Exception):
    """Something outside the program is missing or wrong (data, network, an optional package)."""

    exit_status = 1


class UsageError(LabError):
    """The request itself cannot be met: a bad option, or a run folder that holds something else."""

    exit_status = 2


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; everything needed to go on is on disk.

    Like KeyboardInterrupt it is no Exception, so that no `except Exception` on its way swallows it.

    Attributes:
        resume: whether the command goes on only with --resume.
    """

    resume = True

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, without its traceback."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
