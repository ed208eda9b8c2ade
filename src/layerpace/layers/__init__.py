"""Parameters -> layers: names, segments, exclusion, and learning rates by layer.

A layer is what gets one row of the table: by default one tensor. It can be finer: ``segments`` cuts a tensor along
dimension 0 into layers of their own (the three parts of a fused QKV matrix, stacked experts, an embedding's rows).
"""

from layerpace.layers.base import Exclude, ParameterLayers, Segments
from layerpace.layers.by_depth import decay
from layerpace.layers.by_width import mup
from layerpace.layers.describing import describe
from layerpace.layers.matching import matching
from layerpace.layers.rates import multiplier, prioritize
from layerpace.layers.selection import excluded, is_vector, segment_sizes

__all__ = [
    "Exclude", "ParameterLayers", "Segments", "decay", "describe", "excluded", "is_vector", "matching", "multiplier",
    "mup", "prioritize", "segment_sizes",
]  # fmt: skip
