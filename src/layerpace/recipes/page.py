"""The page of results, claim by claim: RESULTS/README.md, written from the JSON files that are there.

What people wrote of a recipe's results (why a claim does not hold here, say) is RESULTS/NAME/analysis.md, and stands in
the page as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..lab.records import make_folder
from ..lab.records import write as write_file
from .recipe import PAPERS, Recipe, Verdict
from .results import Saved, largest
from .show import duration

PAGE = "README.md"
ANALYSIS = "analysis.md"
MARKS: dict[Verdict, str] = {"holds": "holds", "does not hold": "**does not hold**", "not decided": "not decided"}
INTRODUCTION = """# Results: do the papers' claims hold here?

Made by `layerpace reproduce`; this page by `layerpace reproduce --page --results docs/results`. Every claim is decided
by the test beside it, stated in the recipe before the runs: "not decided" means that the interval over seeds has both
answers in it. What ran at scale "cpu" is smaller than in the papers (less data, narrower networks, fewer epochs: see
each setup), and CIFAR-10 went through JPEG once, so relations between methods can be compared with the papers, and
absolute figures cannot.
"""


def write(results: Path, recipes: Iterable[Recipe]) -> Path:
    """Write the page and return its path."""
    found = [(recipe, largest(results, recipe)) for recipe in recipes]
    parts = [INTRODUCTION, overall([saved for _, saved in found if saved is not None])]
    for paper, title in PAPERS.items():
        own = [(recipe, saved) for recipe, saved in found if recipe.paper == paper]
        if own:
            parts += [f"## {title}", claims(own)]
            parts += [section(results, saved) for _, saved in own if saved is not None]
            parts.append(left_out([recipe for recipe, saved in own if saved is None]))
    make_folder(results)
    write_file(results / PAGE, "\n\n".join(part.strip() for part in parts if part.strip()) + "\n")
    return results / PAGE


def overall(saved: Sequence[Saved]) -> str:
    """How many claims held, over all papers."""
    counted = Counter(finding.verdict for one in saved for finding in one.findings)
    return ", ".join(f"{counted[verdict]} claims: {mark}" for verdict, mark in MARKS.items() if counted[verdict]) + "."


def claims(own: Sequence[tuple[Recipe, Saved | None]]) -> str:
    """The table of a paper's claims; those of recipes without results are not in it."""
    lines = ["| where | claim | paper | here | |", "|---|---|---|---|---|"]
    for recipe, saved in own:
        for found in saved.findings if saved is not None else ():
            claim = found.claim
            row = (f"[{claim.where}](#{recipe.name})", claim.says, claim.paper, found.ours, MARKS[found.verdict])
            lines.append("| " + " | ".join(cell(text) for text in row) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def section(results: Path, saved: Saved) -> str:
    """One recipe: the picture, its setup, its tests, where and how it was made, what was written of it."""
    recipe, made = saved.recipe, saved.made
    written = results / recipe.name / ANALYSIS
    tests = "\n".join(f"- {claim.says} *{claim.test}*" for claim in recipe.claims)
    parts = [
        f'<a id="{recipe.name}"></a>\n### {recipe.title} ({", ".join(recipe.shows)})',
        f"![{recipe.title}]({recipe.name}/{saved.picture.name})",
        recipe.setup[saved.scale],
        f"How each claim is decided:\n\n{tests}" if tests else "",
        written.read_text(encoding="utf-8") if written.exists() else "",
        f"`{made.command}`: {made.runs} runs, {duration(made.run_seconds)} of training in "
        f"{duration(made.wall_seconds)}, {hardware(made.machine)}; "
        f"commit {made.commit or 'unknown'}, {made.date[:10]}. "
        f"[Data]({recipe.name}/{saved.scale}.json)",
    ]
    return "\n\n".join(part for part in parts if part)


def hardware(machine: dict[str, Any]) -> str:
    """The processor and the versions in a few words."""
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return f"{gpu}{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}"


def left_out(recipes: Sequence[Recipe]) -> str:
    """Recipes without results here."""
    if not recipes:
        return ""
    lines = [
        f"- `{recipe.name}` ({', '.join(recipe.shows)}): {recipe.title}. {recipe.setup['cpu']}" for recipe in recipes
    ]
    return "Recipes that run, and have no results here yet:\n\n" + "\n".join(lines)
