"""The routing tables of docs/roles.md: ``python -m tests.layers.role_tables`` writes them anew."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tests.layers import test_roles as families

import layerpace as lp

PAGE = Path(__file__).parents[2] / "docs/roles.md"
MARK = "<!-- tables -->\n"
TITLES = {
    "gpt2": "GPT-2, tied", "llama": "Llama", "mixtral": "Mixtral", "bert": "BERT with its MLM head, tied",
    "t5": "T5, tied", "vit": "ViT", "MLP": "an MLP", "ResNet": "a ResNet", "ConvNeXt": "a ConvNeXt", "U-Net": "a U-Net",
    "LSTM of words": "an LSTM over words", "LSTM": "an LSTM over raw features",
    "LoRA": "LoRA adapters on a frozen base",
}  # fmt: skip


def tables() -> str:
    """One table per family, without biases and other vectors of one dimension."""
    parts = []
    for name, title in TITLES.items():
        torch.manual_seed(0)
        if name in families.EXPECTED:
            found = lp.layers.roles(families.transformer(name), families.EXAMPLES[name]())
        else:
            make, example, _ = families.HAND[name]
            found = lp.layers.roles(make(), example())
        wide = lp.layers.Roles([entry for entry in found.values() if entry.parameter.ndim > 1])
        parts.append(f"### {title[0].upper()}{title[1:]}\n\n```\n{wide}\n```\n")
    gan = lp.layers.roles(
        {"generator": families.mlp(), "critic": families.mlp()},
        dict.fromkeys(("generator", "critic"), torch.rand(1, 3)),
    )
    wide = lp.layers.Roles([entry for entry in gan.values() if entry.parameter.ndim > 1])
    parts.append(f"### A GAN of two modules\n\n```\n{wide}\n```\n")
    return "\n".join(parts)


def main() -> None:
    text = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(text + MARK + "\n" + tables())


if __name__ == "__main__":
    sys.exit(main())
