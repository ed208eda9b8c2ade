"""Rows on a terminal: what tells the runs apart, and how they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...engine.common.consoles import SafeConsole
from ...engine.common.printable import printable
from .run_rows import Columns, Row

FIRST = ("method", "lr", "seed")  # of what tells runs apart
SCORES = ("test_score", "validation_score", "train_score", "test_loss")  # shown first
STYLES = {"failed": "red", "diverged": "red", "unfinished": "yellow"}
WIDEST = 40  # of a cell, where not all fit
GAP = 3  # between columns


def wanted(rows: Sequence[Row], columns: Columns, curve: bool) -> list[str]:
    """The columns worth a look, the most important first."""
    if curve:
        return ["name", "step", *columns.figures]
    telling = [name for name in columns.config if len({str(row[name]) for row in rows}) > 1]
    telling.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    figures = [name for name in columns.figures if any(type(row[name]) in (int, float) for row in rows)]
    figures.sort(key=lambda name: SCORES.index(name) if name in SCORES else len(SCORES))
    error = ["error"] if any(row["error"] for row in rows) else []
    return ["name", "status", *figures[:1], *telling, *error, "step", *figures[1:], "seconds"]


def show(console: Console, rows: Sequence[Row], columns: Columns, names: Sequence[str] | None, curve: bool) -> None:
    """Print a table.

    Args:
        names: of the columns; None: those that tell the runs apart and fit the console. What has no room is named
            beneath.
    """
    if not rows:
        console.print("no run meets the conditions")
        return
    asked = list(names) if names is not None else wanted(rows, columns, curve)
    cells = {name: [text(name, row[name]) for row in rows] for name in asked}
    widths = {name: max(len(name), *(len(cell) for cell in cells[name])) for name in asked}
    shown = asked
    if not console.is_terminal:  # a file or another program: all of it, a line a row
        console = SafeConsole(file=console.file, width=sum(widths.values()) + GAP * len(asked) + 2)
    elif names is None:
        shown = fitting(asked, widths, console.width)
    if names is None:
        shown = sorted(shown, key=list(rows[0]).index)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        numbers = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(Text(printable(name)), justify="right" if numbers else "left", overflow="fold")
    for place, row in enumerate(rows):
        table.add_row(*(Text(cells[name][place]) for name in shown), style=STYLES.get(str(row.get("status"))))
    console.print(table)
    hidden = [name for name in asked if name not in shown]
    if hidden:
        left_out = printable(", ".join(hidden))
        console.print(f"no room for {left_out}: use --columns", style="dim", highlight=False, markup=False)


def fitting(names: Sequence[str], widths: dict[str, int], width: int) -> list[str]:
    """As many as fit, in order; one too wide is left out and smaller ones after it get its room."""
    shown: list[str] = []
    left = width
    for name in names:
        need = min(widths[name], WIDEST) + GAP
        if need <= left or not shown:
            shown.append(name)
            left -= need
    return shown


def text(name: str, item: Any) -> str:
    """A cell."""
    if item is None:
        return "-"
    if isinstance(item, float):
        return f"{item:.1f}" if name == "seconds" else f"{item:.4g}"
    return printable(item)
