"""The committed results: their page is that of the data, and the data lead to the kept verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerpace.lab.recipes import page, results
from layerpace.lab.recipes.registry import recipes

KEPT = Path(__file__).parents[3] / "docs/results"
SAVED = [saved for recipe in recipes().values() for saved in results.all_of(KEPT, recipe)]


def test_the_page_is_of_these_results() -> None:
    """If not: layerpace reproduce --page --results docs/results."""
    assert (KEPT / page.PAGE).read_text() == page.page_text(KEPT, recipes().values())


def test_every_folder_is_a_recipes() -> None:
    assert {folder.name for folder in KEPT.iterdir() if folder.is_dir()} == {saved.recipe.name for saved in SAVED}


@pytest.mark.parametrize("saved", SAVED, ids=lambda saved: f"{saved.recipe.name}-{saved.scale}")
def test_kept_data_lead_to_the_kept_verdicts(saved: results.Saved) -> None:
    """If not: layerpace reproduce NAME --redraw --results docs/results, which dates a test that has changed."""
    again = saved.recipe.findings(saved.data)
    assert saved.version == saved.recipe.version
    assert [(f.claim, f.verdict, f.ours) for f in again] == [(f.claim, f.verdict, f.ours) for f in saved.findings]
