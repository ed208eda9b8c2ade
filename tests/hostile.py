"""What no command may do, whatever it is given: the check of what a run in this process printed and how it ended.

outcome = ended(lambda: dispatch(["report", str(folder)]), capsys)
assert not outcome.faults(), outcome
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import pytest

NAUGHTY = "\x1b[31mred\x1b]0;title\x07\nsecond\u202eline\u200b\x9b"  # a name that steers a terminal, if it gets there
LIMIT = 10.0  # seconds, of the slowest


@dataclass
class Outcome:
    """How a call ended.

    Attributes:
        status: what it exited with, 0 where it returned; None: an exception came out.
        error: that exception, as Python names it.
        out, err: what was printed.
        seconds: that it took.
    """

    status: int | None
    error: str
    out: str
    err: str
    seconds: float

    def faults(self, limit: float = LIMIT, err_lines: int | None = 1) -> list[str]:
        """What is wrong: a traceback, raw control characters, an error of more than a line, an unknown status, time."""
        found = [f"traceback: {self.error}"] if self.error else []
        if "Traceback (most recent call last)" in self.out + self.err:
            found.append("a traceback was printed")
        found += [f"control characters in {name}: {raw}" for name, raw in
                  (("stdout", controls(self.out)), ("stderr", controls(self.err))) if raw]  # fmt: skip
        if self.status not in (0, 1, 2, 3, None):
            found.append(f"status {self.status}")
        if self.status and not self.err.strip():
            found.append(f"status {self.status} without a word")
        if self.status and err_lines is not None and len(self.err.strip().splitlines()) > err_lines:
            found.append(f"{len(self.err.strip().splitlines())} lines of error")
        if self.seconds > limit:
            found.append(f"{self.seconds:.1f} s")
        return found

    @property
    def message(self) -> str:
        """The last line of the error, or the first of the output."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.error or (lines[-1] if lines else next(iter(self.out.splitlines()), ""))


def controls(text: str) -> list[str]:
    """Characters that steer a terminal: escapes and other control characters, and marks of direction."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [f"U+{ord(x):04X}" for x in dict.fromkeys(text) if x not in "\n\t" and unicodedata.category(x) in kinds]


def ended(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Call, and say how it ended."""
    capsys.readouterr()
    begun = time.monotonic()
    status: int | None = 0
    error = ""
    try:
        call()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception as raised:
        status, error = None, f"{type(raised).__name__}: {raised}"
    out, err = capsys.readouterr()
    return Outcome(status, error, out, err, time.monotonic() - begun)
