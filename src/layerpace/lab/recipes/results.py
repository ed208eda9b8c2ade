"""What is kept of a recipe: RESULTS/NAME/SCALE.json and SCALE.png.

The JSON holds the data that all claims are judged by and the figure is drawn from, how they were made, and what was
found at the time: the setup, the tests and the verdicts, which later changes of the recipe do not touch. A test that is
new or another when a result is judged again has the date of that, so that none passes for one stated beforehand.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import LabError
from ..records import make_folder, to_json, write
from .provenance import Made
from .recipe import SCALES, Claim, Data, Finding, Recipe

DPI = 110


@dataclass(frozen=True)
class Saved:
    """A result.

    Attributes:
        setup: what was run, as the recipe said then.
        version: of the data, see `Recipe`.
        findings: with the claims and their tests as they were then.
    """

    recipe: Recipe
    scale: str
    setup: str
    version: int
    made: Made
    findings: tuple[Finding, ...]
    data: Data

    @property
    def picture(self) -> str:
        """Beside the page."""
        return f"{self.recipe.name}/{self.scale}.png"


def save(results: Path, saved: Saved) -> Path:
    """Write the JSON and the picture, each whole or not at all; the folder that they are in.

    Tests that the result which was there until now had not, or had otherwise, get today's date.

    Raises:
        LabError: the picture cannot be drawn; nothing is written then.
    """
    recipe, folder = saved.recipe, results / saved.recipe.name
    before = None
    with suppress(LabError):  # one that cannot be read is replaced
        before = load(results, recipe, saved.scale)
    findings = saved.findings if before is None else dated(saved.findings, before.findings)
    try:
        buffer = io.BytesIO()
        recipe.draw(saved.data).savefig(buffer, dpi=DPI, format="png")
    except Exception as error:  # whatever a recipe's code raises: the others go on
        raise LabError(f"drawing {recipe.name}: {type(error).__name__}: {error}") from error
    kept = {
        "recipe": recipe.name,
        "scale": saved.scale,
        "setup": saved.setup,
        "version": saved.version,
        **asdict(saved.made),
        "findings": [to_dict(found) for found in findings],
        "data": saved.data,
    }
    make_folder(folder)
    write(folder / f"{saved.scale}.png", buffer.getvalue())
    write(folder / f"{saved.scale}.json", to_json(kept, indent=1) + "\n")
    return folder


def dated(findings: Iterable[Finding], before: Iterable[Finding]) -> list[Finding]:
    """Findings that say since when their tests stand, if these came before."""
    earlier = {found.claim.key: found for found in before}
    today = datetime.now(UTC).date().isoformat()

    def since(found: Finding) -> str:
        old = earlier.get(found.claim.key)
        return old.since if old is not None and old.claim.test == found.claim.test else today

    return [replace(found, since=since(found)) for found in findings]


def to_dict(found: Finding) -> dict[str, Any]:
    late = {"since": found.since} if found.since else {}
    return {**asdict(found.claim), "ours": found.ours, "verdict": found.verdict, **late}


def load(results: Path, recipe: Recipe, scale: str) -> Saved | None:
    """A result; None: there is none.

    Raises:
        LabError: the file cannot be read, or is of another recipe.
    """
    path = results / recipe.name / f"{scale}.json"
    try:
        found = json.loads(path.read_text())
        if (found["recipe"], found["scale"]) != (recipe.name, scale):
            raise ValueError("it is another recipe's")
        made = Made(**{name: found[name] for name in Made.__dataclass_fields__})
        findings = tuple(finding(one) for one in found["findings"])
        return Saved(recipe, scale, found["setup"], found["version"], made, findings, found["data"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def finding(found: dict[str, Any]) -> Finding:
    claim = Claim(**{name: found[name] for name in Claim.__dataclass_fields__})
    return Finding(claim, found["verdict"], found["ours"], found.get("since", ""))


def all_of(results: Path, recipe: Recipe) -> list[Saved]:
    """The results at the scales that say something, cpu and paper, as far as they are there."""
    return [saved for scale in SCALES[1:] if (saved := load(results, recipe, scale)) is not None]
