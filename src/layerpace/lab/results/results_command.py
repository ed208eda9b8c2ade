"""`layerpace results` from a parsed command line to the printed table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError


def run(
    folders: Sequence[Path],
    *,
    out: Path | None = None,
    columns: Sequence[str] = (),
    sort: str | None = None,
    descending: bool = False,
    conditions: Sequence[str] = (),
    curves: bool = False,
    json: bool = False,
) -> None:
    """Collect, choose, and print or write; see `layerpace results --help`."""
    from ...engine.common.consoles import SafeConsole
    from ..records import to_json
    from .files import check, write
    from .found import find
    from .run_rows import chosen, curve_table, ordered, table, where
    from .show import show

    if descending and sort is None:
        raise UsageError("--descending: say by which column, such as --sort test_score")
    if out is not None:
        check(out)
    console = SafeConsole(stderr=True)

    def warn(message: str) -> None:
        console.print(message, style="yellow", soft_wrap=True, highlight=False, markup=False)

    runs = find(folders, warn)
    rows, kinds = curve_table(runs) if curves else table(runs)
    names = chosen(rows, columns) if columns else None
    every = list(rows[0]) if rows else []
    rows = where(rows, conditions)
    if sort is not None:
        rows = ordered(rows, sort, descending)
    picked = rows if names is None else [{name: row[name] for name in names} for row in rows]
    if out is not None:
        write(picked, out, every if names is None else names)
        console.print(f"{out}: {len(picked)} rows", soft_wrap=True, highlight=False, markup=False)
    if json:
        sys.stdout.write(to_json(picked, indent=1) + "\n")
    elif out is None:
        show(SafeConsole(), rows, kinds, names, curves)
