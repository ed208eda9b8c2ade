"""A tiny GPT that reads 16 characters of this project's README and names the next one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from layerpace.lab import Dataset, Task

LENGTH, WIDTH, BLOCKS = 16, 32, 2


class GPT(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, words)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x = self.blocks(self.words(tokens.long()) + self.places, mask=mask, is_causal=True)
        logits: Tensor = self.head(self.norm(x[:, -1]))
        return logits


def characters() -> Task:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    letters = sorted(set(text))
    numbers = torch.tensor([letters.index(letter) for letter in text])
    windows = numbers.unfold(0, LENGTH + 1, 1)
    test = torch.arange(len(windows)) % 5 == 0
    x, y = windows[:, :LENGTH].float(), windows[:, LENGTH].contiguous()
    data = Dataset(x[~test], y[~test], x[test], y[test], classes=len(letters))
    return Task("characters", data, lambda: GPT(len(letters)), batch_size=64, steps=300, eval_every=100, threads=1)
