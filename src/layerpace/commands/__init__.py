"""The commands of `layerpace`, a module each: its options, their help, and what is wrong with them in one line."""

import sys
from typing import NoReturn

EXIT_USAGE = 2


def complain(message: str, status: int) -> NoReturn:
    """One line on stderr, and the exit status."""
    print(f"layerpace: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
