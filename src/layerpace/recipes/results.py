"""What is kept of a recipe: RESULTS/NAME/SCALE.json and SCALE.png.

The JSON holds the data that all claims are judged by and the figure is drawn from, and where they were measured.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..lab.errors import LabError
from ..lab.records import make_folder, to_json, write
from .recipe import SCALES, Data, Finding, Recipe

DPI = 110


@dataclass(frozen=True)
class Made:
    """How the data of a result came about.

    Attributes:
        command: that makes it again.
        commit: of layerpace, "+" behind it if it was changed; None: unknown.
        machine: see `layerpace.lab.machine.describe`.
        date: UTC.
        runs: number of runs that it rests on.
        run_seconds: sum of the runs' durations, also of those that other recipes share.
        wall_seconds: in which at least one of them was under way.
    """

    command: str
    commit: str | None
    machine: dict[str, Any]
    date: str
    runs: int
    run_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Saved:
    """A result that was read back."""

    recipe: Recipe
    scale: str
    made: Made
    data: Data
    picture: Path

    @property
    def findings(self) -> list[Finding]:
        """Judged now, by the recipe as it is."""
        return self.recipe.findings(self.data)


def save(results: Path, recipe: Recipe, scale: str, made: Made, data: Data) -> Path:
    """Write the JSON and the picture, whole or not at all; the folder that they are in."""
    folder = results / recipe.name
    make_folder(folder)
    findings = [
        {"claim": f.claim.key, "says": f.claim.says, "test": f.claim.test, "paper": f.claim.paper, "ours": f.ours}
        | {"verdict": f.verdict}
        for f in recipe.findings(data)
    ]
    document = {"recipe": recipe.name, "scale": scale, **asdict(made), "findings": findings, "data": data}
    picture(folder / f"{scale}.png", recipe, data)
    write(folder / f"{scale}.json", to_json(document, indent=1) + "\n")
    return folder


def picture(path: Path, recipe: Recipe, data: Data) -> None:
    """Draw the figure into a PNG file."""
    buffer = io.BytesIO()
    recipe.draw(data).savefig(buffer, dpi=DPI, format="png")
    write(path, buffer.getvalue())


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
        return Saved(recipe, scale, made, found["data"], path.with_suffix(".png"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def largest(results: Path, recipe: Recipe) -> Saved | None:
    """The result at the largest scale that there is, of cpu and paper; None: there is none."""
    found = [saved for scale in SCALES[1:] if (saved := load(results, recipe, scale)) is not None]
    return found[-1] if found else None
