"""The parameter sets that step times are measured on: shapes of real networks, and two extremes."""

from __future__ import annotations

import math
from dataclasses import dataclass

Shapes = list[tuple[int, ...]]

CUT = 64  # by which --quick divides the dimensions and the number of tensors


@dataclass(frozen=True)
class ParameterSet:
    """The shapes of all tensors that an optimizer steps at once."""

    title: str
    shapes: Shapes

    @property
    def sizes(self) -> list[int]:
        """Entries of each tensor."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def entries(self) -> int:
        return sum(self.sizes)

    def small(self) -> ParameterSet:
        """The same set in small, to try the harness: its times say nothing."""
        some = self.shapes[:: max(1, len(self.shapes) // CUT)]
        return ParameterSet(self.title, [tuple(min(n, max(2, n // CUT)) for n in shape) for shape in some])


def resnet50() -> Shapes:
    """The 161 tensors of ResNet-50, 25.6M entries."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            for shape in ((width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [shape, (shape[0],), (shape[0],)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2_small() -> Shapes:
    """The 148 tensors of GPT-2 small, 124M entries."""
    block: Shapes = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [(50257, 768), (1024, 768), *block * 12, (768,), (768,)]


SETS: dict[str, ParameterSet] = {
    "S1": ParameterSet("ResNet-50", resnet50()),
    "S2": ParameterSet("GPT-2 small", gpt2_small()),
    "S3": ParameterSet("one tensor of 100M", [(10_000, 10_000)]),
    "S4": ParameterSet("2000 tensors of 1000", [(40, 25)] * 2000),
}
