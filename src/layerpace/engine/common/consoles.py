"""The consoles that layerpace prints to: no control character of a name gets past them to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .printable import printable_lines


class SafeConsole(Console):
    """What is printed has no control characters but those that rich itself sends: colours, and moves of the cursor.

    A line end stays one, since tables are made of them: give a name that may hold some through `printable`. Brackets
    are brackets, and no markup: in a path or a label of somebody's, "[/]" would be an error, and "[red]" vanish.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)
