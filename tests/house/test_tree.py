"""The tree in CONTRIBUTING.md is the tree on disk."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[\w.]+/?")


def tree() -> dict[Path, set[str]]:
    """{folder: what the tree lists in it} of the folders whose contents it lists."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("```")
    block = next(part for part in text if part.startswith("\nsrc/layerpace/"))
    found: dict[Path, set[str]] = {}
    open_folders: list[tuple[int, Path]] = [(-1, ROOT)]
    for line in block.strip("\n").split("\n"):
        indent = len(line) - len(line.lstrip())
        if indent > 12:  # a description goes on
            continue
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        while open_folders[-1][0] >= indent:
            open_folders.pop()
        parent = open_folders[-1][1]
        for name in names:
            assert (parent / name).exists(), f"CONTRIBUTING.md lists {parent / name}, which is not there"
            found.setdefault(parent, set()).add(name.rstrip("/"))
        if names[0].endswith("/"):
            open_folders.append((indent, parent / names[0]))
    del found[ROOT]
    return found


def there(folder: Path) -> set[str]:
    """What git has, or would take, in a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "."], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    names = {line.split("/")[0] for line in listed if line}
    return {name for name in names if (folder / name).exists()} - {"README.md"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files belong to the project")
def test_the_tree_in_contributing_is_the_tree() -> None:
    listed = tree()
    package = ROOT / "src/layerpace"
    assert {package, package / "engine", package / "rules", package / "engine/backends", ROOT / "tests"} <= set(listed)
    for folder, names in listed.items():
        real = there(folder)
        if "__init__.py" not in names:
            real -= {"__init__.py", "README.md"}
        if folder == package / "lab":  # one of its packages is shown, and the text says what else is there
            assert names <= real
            continue
        assert names == real, f"{folder.relative_to(ROOT)}: CONTRIBUTING.md lists {sorted(names ^ real)} wrongly"


def test_a_newcomer_sees_what_users_import() -> None:
    package = ROOT / "src/layerpace"
    files = [path.name for path in package.iterdir() if path.is_file()]
    assert len(files) <= 7, files
    folders = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == {
        "commands",
        "directions",
        "engine",
        "integrations",
        "lab",
        "layers",
        "monitors",
        "optim",
        "rules",
    }
