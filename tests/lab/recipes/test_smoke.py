"""Every recipe at smoke scale, from the command to its picture, where no data set is at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerpace.lab.recipes import registry

PATIENCE = 900  # seconds, where others compute


@pytest.mark.slow
def test_every_recipe_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "layerpace", "reproduce", "all", "--scale", "smoke", "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("LAYERPACE_DATA", None)
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr[-3000:]
    documents = {document["recipe"]: document for document in json.loads(ended.stdout)["recipes"]}
    known = registry.recipes()
    assert list(documents) == list(known)
    for name, recipe in known.items():
        assert [found["key"] for found in documents[name]["findings"]] == [claim.key for claim in recipe.claims]
        picture = tmp_path / "runs/reproduce/results" / name / "smoke.png"
        assert picture.read_bytes().startswith(b"\x89PNG"), name
    assert not (tmp_path / "cache/layerpace").exists(), "something was downloaded, or looked for"
