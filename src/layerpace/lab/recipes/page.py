"""The page of results, claim by claim: RESULTS/README.md, written from the JSON files that are there.

What people wrote of a recipe's results (why a claim does not hold here, say) is RESULTS/NAME/analysis.md, and stands in
the page as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..records import make_folder
from ..records import write as write_file
from .provenance import Made
from .recipe import PAPERS, Finding, Recipe, Verdict
from .results import Saved, all_of
from .show import duration

PAGE = "README.md"
ANALYSIS = "analysis.md"
MARKS: dict[Verdict, str] = {
    "holds": "holds",
    "does not hold": "**does not hold**",
    "not decided": "not decided",
}
COUNTED: dict[Verdict, str] = {"holds": "hold", "does not hold": "do not hold", "not decided": "are not decided"}
INTRODUCTION = """# Results: do the papers' claims hold here?

Made by `layerpace reproduce`; this page by `layerpace reproduce --page --results docs/results`. A claim is decided by
the test that stands with its recipe; where a test was changed after a look at results, it says so. "Not
decided" means that the interval has both answers in it, or that nothing was there to decide by. Scale "cpu" is smaller
than the papers (less data, narrower networks, fewer epochs: see each setup), and CIFAR-10 went through JPEG once, so
relations between methods can be compared with the papers, and absolute figures cannot.

± is the standard deviation over seeds; [a, b] is the 95% interval of a mean over seeds. Layer rotation: ρ(0) is Layca's
first rate, the tangent of the angle by which a layer turns in a step; α spreads it over the layers (below 0 the first
turn fastest). In the pictures η is a test accuracy, η* that of Layca. SGD_AMom is SGD with Adam's momentum, L2 weight
decay.
"""


def write(results: Path, recipes: Iterable[Recipe]) -> Path:
    """Write the page and return its path.

    Raises:
        LabError: a result cannot be read.
    """
    text = page_text(results, recipes)
    make_folder(results)
    write_file(results / PAGE, text)
    return results / PAGE


def page_text(results: Path, recipes: Iterable[Recipe]) -> str:
    found = [(recipe, all_of(results, recipe)) for recipe in recipes]
    parts = [INTRODUCTION, overall([one for _, saved in found for one in saved])]
    for paper, title in PAPERS.items():
        own = [saved for recipe, some in found if recipe.paper == paper for saved in some]
        missing = [recipe for recipe, some in found if recipe.paper == paper and not some]
        if own or missing:
            parts += [f"## {title}", claims(own), *(section(results, saved) for saved in own), left_out(missing)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def overall(saved: Sequence[Saved]) -> str:
    """How many claims held, over all papers."""
    counted = Counter(finding.verdict for one in saved for finding in one.findings)
    total = sum(counted.values())
    words = ", ".join(f"{counted[verdict]} {word}" for verdict, word in COUNTED.items() if counted[verdict])
    return f"Of {total} claims {words}." if total else ""


def claims(own: Sequence[Saved]) -> str:
    """The table of a paper's claims."""
    lines = ["| where | claim | paper | here | |", "|---|---|---|---|---|"]
    for saved in own:
        for found in saved.findings:
            claim = found.claim
            link = f"[{claim.where}](#{anchor(saved)})"
            row = (link, claim.says, claim.paper, found.ours, f"{MARKS[found.verdict]} ({saved.scale})")
            lines.append("| " + " | ".join(cell(text) for text in row) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def anchor(saved: Saved) -> str:
    return f"{saved.recipe.name}-{saved.scale}"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def section(results: Path, saved: Saved) -> str:
    """One result: the picture, its setup, its tests, what was written of it, where and how it was made."""
    recipe, made = saved.recipe, saved.made
    written = results / recipe.name / ANALYSIS
    tests = "\n".join(f"- {found.claim.says} *{found.claim.test}*{since(found)}" for found in saved.findings)
    parts = [
        f'<a id="{anchor(saved)}"></a>\n### {recipe.title} ({", ".join(recipe.shows)}; {saved.scale})',
        f"![{recipe.title}]({saved.picture})",
        saved.setup,
        f"How each claim is decided:\n\n{tests}" if tests else "",
        written.read_text(encoding="utf-8") if written.exists() else "",
        f"`{made.command}`: {how(made)}. [Data]({recipe.name}/{saved.scale}.json)",
    ]
    return "\n\n".join(part for part in parts if part)


def since(found: Finding) -> str:
    return f" (this test is of {found.since}, when there were results already)" if found.since else ""


def how(made: Made) -> str:
    """Runs, time, hardware, commits and date in a line."""
    time = f"{duration(made.run_seconds)} of training in {duration(made.wall_seconds)}"
    runs = f"{made.runs} run{'s' * (made.runs != 1)}, {time}, " if made.runs else ""
    places = [
        f"a run on {one['cores']} core{'s' * (one['cores'] != 1)} of {one['cpu']}, torch {one['torch']}"
        for one in made.machines
    ]
    gpus = [f"{one['gpu']}, " for one in made.machines if "gpu" in one]
    commits = f"commit{'s' * (len(made.commits) > 1)} {', '.join(made.commits)}"
    return f"{runs}{''.join(dict.fromkeys(gpus))}{'; '.join(dict.fromkeys(places))}; {commits}; {made.date[:10]}"


def left_out(recipes: Sequence[Recipe]) -> str:
    """Recipes without results here."""
    if not recipes:
        return ""
    lines = [f"- `{one.name}` ({', '.join(one.shows)}): {one.title}. {one.setup['cpu']}" for one in recipes]
    return "Recipes that run, and have no results here yet:\n\n" + "\n".join(lines)
