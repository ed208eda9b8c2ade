"""How to install what an optional part needs: one wording for all messages."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """The commands that install an extra, of the package and in a clone of its repository."""
    return f"pip install 'layerpace[{extra}]', or in a clone pip install '.[{extra}]'"
