"""What a terminal can show: names cut to a width, figures in seven characters, sparklines.

Everything here has an ASCII form for terminals whose encoding has no block characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.common.printable import printable

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"
ZERO, INFINITE, NOTHING = "0", "!", " "
FIGURE_WIDTH = 7


@dataclass(frozen=True)
class Characters:
    """What stands for what.

    Attributes:
        blocks: eight heights, lowest first.
        ellipsis: for what was cut.
        between: parts of a line.
    """

    blocks: str = BLOCKS
    ellipsis: str = "…"
    between: str = " · "


UNICODE = Characters()
ASCII = Characters(ASCII_BLOCKS, "~", " | ")


def characters_for(encoding: str) -> Characters:
    """Those that the encoding has."""
    try:
        (UNICODE.blocks + UNICODE.ellipsis + UNICODE.between).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def clean(text: str, characters: Characters = UNICODE) -> str:
    """`printable`, in ASCII where the terminal knows no more."""
    text = printable(text)
    return text.encode("ascii", "replace").decode() if characters is ASCII else text


def cut(text: str, width: int, ellipsis: str, *, middle: bool = False) -> str:
    """The text in at most `width` cells: its beginning, or its two ends.

    Of a layer's name the end tells more than the start, so the end gets three fifths.
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if width <= 1:
        return ellipsis[:width]
    tail = ""
    if middle and width >= 5:
        for letter in reversed(text):
            if cell_len(letter + tail) > (width - 1) * 3 // 5:
                break
            tail = letter + tail
    return set_cell_size(text, width - 1 - cell_len(tail)) + ellipsis + tail


def figure(x: float) -> str:
    """A figure in at most seven characters; "-": not measured."""
    if math.isnan(x):
        return "-"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    text = f"{x:.3g}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"
    return text if len(text) <= FIGURE_WIDTH else f"{x:.0e}"


def duration(seconds: float) -> str:
    """Short: "4 s", "3 min", "2.5 h"."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms at the foot and the top of the sparklines, one decade apart at least; what is far out is cut off.

    The scale is that of all layers, so that the sparklines of two layers compare.
    """
    logs = sorted(math.log10(x) for x in values if x > 0 and math.isfinite(x))
    if not logs:
        return 0.0, 1.0
    spare = len(logs) // 100  # one figure in a hundred may be beyond either end
    low, high = logs[spare], logs[-1 - spare]
    wider = max(0.0, 1.0 - (high - low)) / 2
    return low - wider, high + wider


def sparkline(values: Sequence[float], width: int, ends: tuple[float, float], characters: Characters) -> str:
    """Figures on a log scale, one character each, or where they are more than `width` one for a stretch of them.

    A stretch shows its (geometric) mean; "0" that all of it is zero, "!" that some of it is not finite, and a blank
    that nothing was measured.
    """
    count = min(width, len(values))
    drawn = []
    for k in range(count):
        part = values[k * len(values) // count : (k + 1) * len(values) // count]
        logs = [math.log10(x) for x in part if x > 0 and math.isfinite(x)]
        if any(map(math.isinf, part)):
            drawn.append(INFINITE)
        elif logs:
            share = (sum(logs) / len(logs) - ends[0]) / (ends[1] - ends[0])
            drawn.append(characters.blocks[min(7, max(0, int(8 * share)))])
        else:
            drawn.append(ZERO if 0.0 in part else NOTHING)
    return "".join(drawn)
