"""Names that come from outside, as a terminal may be told them.

A name of a run, a layer or a column is anybody's text: it may hold line ends, escape sequences that steer a terminal,
marks that turn the direction of writing, or bytes that are no text at all. Whatever is printed goes through `printable`
(one line) or `printable_lines`; `consoles` and the errors of the command line do so by themselves.
"""

from __future__ import annotations

import unicodedata

UNKNOWN = "?"  # in the place of what cannot be shown


def printable(text: object) -> str:
    """The text on one line, "?" for every character that has no shape of its own."""
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: object) -> str:
    """The same, with line ends and tabs left as they are."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if unicodedata.category(letter) == "Zs" else UNKNOWN
