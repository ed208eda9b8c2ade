"""The Python of the README and of the guides runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp

ROOT = Path(__file__).parents[2]


def blocks(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


# Of the guide to monitors the first is a whole program; the others are parts of one.
EXAMPLES = {
    "a training loop": ("README.md", 0),
    "a monitor": ("README.md", 1),
    "the methods": ("README.md", 2),
    "watching every layer": ("docs/monitors.md", 0),
    "globs where a trainer makes the groups": ("docs/trainers.md", 0),
    "settings of transformers": ("docs/trainers.md", 1),
    "a factory for transformers": ("docs/trainers.md", 2),
    "rates by layer": ("docs/trainers.md", 3),
    "a rule of one's own": ("docs/derivations.md", 0),
    "tensors that start at zero": ("docs/zero-initialised.md", 0),
}


class Block(nn.Module):
    """What the README's examples select by name: a fused projection, a norm, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)


def test_no_example_of_the_readme_is_left_out() -> None:
    assert len(blocks("README.md")) == sum(path == "README.md" for path, _ in EXAMPLES.values())


def test_the_guide_to_roles_runs_from_its_beginning_to_its_end() -> None:
    known: dict[str, object] = {}
    for code in blocks("docs/roles.md"):
        exec(compile(code, "docs/roles.md", "exec"), known)
    optimizer: Any = known["optimizer"]
    assert [group.get("direction") for group in optimizer.param_groups] == [None, None, "adam"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, place = EXAMPLES[name]
    code = blocks(path)[place]
    model = nn.Sequential(nn.Linear(4, 4)) if name == "a monitor" else nn.Sequential(Block())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if name == "a monitor":
        code = code.replace("...  # train as ever", "model(torch.ones(1, 4)).sum().backward(); optimizer.step()")
    known = {"torch": torch, "lp": lp, "model": model, "params": [*model.parameters()], "optimizer": optimizer}
    known["args"] = SimpleNamespace(learning_rate=1e-2, weight_decay=0.1)
    exec(compile(code, path, "exec"), known)
    if "Monitor" in code:
        known["monitor"].close()
        assert lp.monitors.load(tmp_path / "runs" / "first")[0].history["relative_update_l1"].isfinite().any()
