"""The commands of `layerpace`, a module each: its options, their help, and what is wrong with them in one line."""

import os
import sys
import time
from typing import NoReturn

from ..engine.common.printable import printable

EXIT_USAGE = 2
LONGEST = 2000  # characters of an error: what was given may be as long as the system lets it


def say(message: str) -> None:
    """One line on stderr."""
    said = " ".join(message.split())
    said = said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
    print(f"layerpace: {printable(said)}", file=sys.stderr)


def complain(message: str, status: int, each: bool = False) -> NoReturn:
    """One line on stderr, and the exit status.

    Of the processes of torchrun, which mostly find the same, rank 0 alone says it, unless ``each`` does.
    """
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    if rank == "0" or each:
        say(message)
    else:
        time.sleep(2)  # torchrun ends all when the first one ends: let that be the one that speaks
    sys.exit(status)
