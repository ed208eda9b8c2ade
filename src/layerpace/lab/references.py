"""Functions by reference, with arguments: `package.module:function`, `path/to/file.py:function(noise=0.1)`."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UsageError, one_line

# The shortest place, so that a colon within the brackets does not end it; a name has none of :( and so ends at its own.
FORM = re.compile(r"(?P<place>.+?):(?P<name>\w+)(?P<call>\(.*\))?", re.DOTALL)
LONGEST = 10_000  # characters; the time that FORM takes grows with their square
KINDS = "package.module:function or path/to/file.py:function"


@dataclass(frozen=True)
class Reference:
    """A function, and keyword arguments for it.

    Attributes:
        place: a module's name, or a path that ends in .py.
        name: of the function there.
        arguments: Python literals.
    """

    place: str
    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> Reference:
        """Read one; a UsageError says what is wrong with it."""
        found = FORM.fullmatch(text) if len(text) <= LONGEST else None
        if found is None:
            raise UsageError(f"write {KINDS}, with or without arguments such as (noise=0.1)")
        return cls(found["place"], found["name"], literals(found["call"] or "()"))

    def check(self, function: Callable[..., Any]) -> None:
        """Raise a UsageError for an argument that the function does not take, or one that it misses."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a callable that does not tell
            return
        parameters = signature.parameters.values()
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            for name in self.arguments:
                if name not in named:
                    close = difflib.get_close_matches(name, named, n=1)
                    guess = f" (did you mean {close[0]}?)" if close else ""
                    known = f"it has {', '.join(named)}" if named else "it has none"
                    raise UsageError(f"{self.name}() has no argument {name!r}{guess}; {known}")
        try:
            signature.bind(**self.arguments)
        except TypeError as error:
            raise UsageError(f"{self.name}(): {one_line(error)}") from None


def literals(call: str) -> dict[str, Any]:
    """{"noise": 0.1} of "(noise=0.1)"; a UsageError for anything but keywords with Python literals."""
    try:
        made = ast.parse(f"f{call}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UsageError(f"{call[:200]} is no list of arguments: {one_line(error)}") from None
    if not isinstance(made, ast.Call) or not isinstance(made.func, ast.Name):  # f(a=1)(b=2)
        raise UsageError(f"{call} is no list of arguments such as (noise=0.1)")
    if made.args or any(keyword.arg is None for keyword in made.keywords):
        raise UsageError(f"{call}: name every argument, as in (noise=0.1)")
    found: dict[str, Any] = {}
    for keyword in made.keywords:
        if keyword.arg in found:
            raise UsageError(f"{call}: {keyword.arg} is there twice")
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, MemoryError, RecursionError):
            written = ast.get_source_segment(f"f{call}", keyword.value) or "..."
            raise UsageError(
                f"{keyword.arg}={written} is not a literal: write a number, 'text', True, None or (1, 2)"
            ) from None
    return found
