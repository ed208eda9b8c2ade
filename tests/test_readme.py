"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import layerpace as lp

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


class Block(nn.Module):
    """What the README's examples select by name: a fused projection, a norm, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=["a training loop", "the methods"])
def test_an_example_runs(block: str) -> None:
    model = nn.Sequential(Block())
    exec(
        compile(block, str(README), "exec"), {"torch": torch, "lp": lp, "model": model, "params": [*model.parameters()]}
    )
