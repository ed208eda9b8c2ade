"""The arguments of a clip rule as text."""

from __future__ import annotations

import ast
import math
from typing import Any

WORDS = {"inf": math.inf, "true": True, "false": False}


def arguments(text: str, brackets: str) -> tuple[list[Any], dict[str, Any]]:
    """The values of "(1, key=2)", the brackets of a text.

    Values are Python's literals; a word is a string, except for inf, true and false.

    Raises:
        ValueError: something else is in the brackets; the message has the whole text.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return WORDS.get(node.id, node.id)
        return ast.literal_eval(node)

    try:
        call = ast.parse(f"f{brackets or '()'}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        options = {key.arg or "**": value(key.value) for key in call.keywords}
        if len(options) < len(call.keywords):
            raise ValueError
        return [value(arg) for arg in call.args], options
    except (SyntaxError, ValueError):
        raise ValueError(f"trust_clip must be a name such as 'running(deviations=2)', got {text!r}") from None
