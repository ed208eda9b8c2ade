"""The list of deliberate breaks is as good as its texts: each stands in its file once, and the tests exist."""

from __future__ import annotations

import ast

from tests.house.mutants import MUTANTS, ROOT, sources


def test_every_mutant_changes_one_place_to_code_that_can_be_read() -> None:
    assert len(MUTANTS) >= 40 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        path, text = sources(mutant)
        assert text.count(mutant.before) == 1, f"{mutant.name}: {text.count(mutant.before)} places in {path}"
        assert mutant.before != mutant.after
        ast.parse(text.replace(mutant.before, mutant.after))
        for tests in mutant.tests.split():
            assert (ROOT / tests).exists(), tests
