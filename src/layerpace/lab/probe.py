"""How far each layer moves in a step, for any optimizer: the weights before it against those after.

At a recorded step the probe copies the weights, lets the optimizer step, and takes for every tensor

    l1      |dW|_1 / |W|_1        relative update; W before the step
    l2      |dW|_2 / |W|_2
    cosine  1 - <W, W0> / (|W| |W0|)      cosine distance to the initial weights; W after the step

At all other steps it does nothing. Results stay on the device until `rows` is asked for them.

Unevenness, one number for a run, in decades: at each recorded step the standard deviation over layers of
log10(l1), then the mean over the recorded steps. 0: all layers change by the same share; 1: a typical
layer is a factor of ten away from the others. Layers are the tensors with two or more dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIGURES = ("l1", "l2", "cosine")
STILL = 1e-12  # a layer that does not move at all counts as moving by this share


@dataclass(frozen=True)
class LayerRow:
    """One tensor at one recorded step; None where a figure has no meaning (a zero tensor)."""

    step: int
    layer: str
    l1: float | None
    l2: float | None
    cosine: float | None


class Probe:
    """Measures `parameters` around single steps.

    Attributes:
        names: of the tensors, in the order given (for a model, from input to output).
        initial: copies of the tensors at construction.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        pairs = [(name, p) for name, p in parameters if p.requires_grad]
        self.names = [name for name, _ in pairs]
        self.parameters = [p for _, p in pairs]
        self.initial = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def around(self, step: Callable[[], object]) -> Tensor:
        """Run `step` and return float64 [layers, 3], the figures in the order of `FIGURES`."""
        before = [p.detach().clone() for p in self.parameters]
        with torch.enable_grad():
            step()
        table = [
            figures(old, new.detach(), initial)
            for old, new, initial in zip(before, self.parameters, self.initial, strict=True)
        ]
        return torch.stack(table)

    def rows(self, step: int, table: Tensor) -> list[LayerRow]:
        """The figures of one recorded step on the host; waits for the device."""
        values = [[v if math.isfinite(v) else None for v in row] for row in table.tolist()]
        return [LayerRow(step, name, *row) for name, row in zip(self.names, values, strict=True)]


def figures(old: Tensor, new: Tensor, initial: Tensor) -> Tensor:
    """float64 [3]: l1, l2 and cosine distance of one tensor."""
    change = new - old
    ratios = [size(change, p) / size(old, p) for p in (1, 2)]
    inner = (new * initial).sum(dtype=torch.float64)
    return torch.stack([*ratios, 1 - inner / (size(new, 2) * size(initial, 2))])


def size(x: Tensor, p: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, p, dtype=torch.float64)
    return norm


def unevenness(rows: Sequence[LayerRow], layers: Iterable[str]) -> float | None:
    """Mean over recorded steps of the sd over `layers` of log10(l1); None for fewer than two layers."""
    wanted = set(layers)
    steps: dict[int, list[float]] = {}
    for row in rows:
        if row.layer in wanted and row.l1 is not None:
            steps.setdefault(row.step, []).append(math.log10(max(row.l1, STILL)))
    spreads = []
    for logs in steps.values():
        if len(logs) > 1:
            mean = sum(logs) / len(logs)
            spreads.append(math.sqrt(sum((value - mean) ** 2 for value in logs) / len(logs)))
    return sum(spreads) / len(spreads) if spreads else None
