"""What `layerpace reproduce` prints: the list of recipes, and claims with the paper's figures and ours side by side."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records import to_json
from .recipe import PAPERS, SCALES, Recipe
from .results import Saved

STYLES = {"holds": "green", "does not hold": "red", "not decided": "yellow"}
SECONDS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def duration(seconds: float) -> str:
    """ "2.5 h", "12 min", "8.1 s"."""
    size, unit = next(((size, unit) for size, unit in SECONDS if seconds >= size), (1.0, "s"))
    return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"


def listing(console: Console, recipes: Iterable[Recipe], kept: Path, as_json: bool) -> None:
    """All recipes, which figures and tables each covers, and at which scales there are results."""
    rows = [(recipe, [s for s in SCALES if (kept / recipe.name / f"{s}.json").exists()]) for recipe in recipes]
    if as_json:
        document = [
            {"name": r.name, "paper": r.paper, "shows": list(r.shows), "title": r.title, "setup": dict(r.setup)}
            | {"claims": [claim.says for claim in r.claims], "results": made}
            for r, made in rows
        ]
        sys.stdout.write(to_json(document, indent=2) + "\n")
        return
    for paper, title in PAPERS.items():
        console.print(Text(f"\n{paper}: {title}", style="bold"))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("recipe", "shows", "", "results"):
            table.add_column(heading, overflow="fold")
        for recipe, made in rows:
            if recipe.paper == paper:
                table.add_row(*map(Text, (recipe.name, ", ".join(recipe.shows), recipe.title, ", ".join(made) or "-")))
        console.print(table)


def findings(console: Console, saved: Saved, folder: Path) -> None:
    """A table of the claims of one recipe, and where its files are."""
    recipe, made = saved.recipe, saved.made
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(f"{recipe.title} ({', '.join(recipe.shows)})"))
    for heading in ("claim", "paper", "here", "test", ""):
        table.add_column(heading, overflow="fold")
    for found in saved.findings:
        claim, verdict = found.claim, found.verdict
        cells = [Text(cell) for cell in (claim.says, claim.paper or "-", found.ours, claim.test)]
        table.add_row(*cells, Text(verdict, style=STYLES[verdict]))
    console.print(table)
    console.print(
        f"{made.runs} runs, {duration(made.run_seconds)} of training in {duration(made.wall_seconds)}; "
        f"{folder / saved.scale}.png, .json",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def summary(
    console: Console, wanted: Sequence[Recipe], documents: Sequence[Mapping[str, Any]], failed: Sequence[str]
) -> None:
    """One line of all recipes, where there were several."""
    if len(wanted) < 2:
        return
    verdicts = Counter(found["verdict"] for document in documents for found in document["findings"])
    counted = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    bad = f"; failed: {', '.join(failed)}" if failed else ""
    console.print(
        f"{len(documents)} of {len(wanted)} recipes; claims: {counted or 'none'}{bad}",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
