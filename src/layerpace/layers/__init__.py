"""Parameters -> layers: names, segments, exclusion, roles, and learning rates by layer.

A layer is what gets one row of the table: by default one tensor. It can be finer: ``segments`` cuts a tensor along
dimension 0 into layers of their own (the three parts of a fused QKV matrix, stacked experts, an embedding's rows).
"""

from layerpace.layers.base import Exclude, ParameterLayers, Segments
from layerpace.layers.by_depth import decay
from layerpace.layers.by_width import mup
from layerpace.layers.describing import describe
from layerpace.layers.matching import matching
from layerpace.layers.rates import multiplier, prioritize
from layerpace.layers.roles import REST, ROLES, Role, Roles, by_role, roles
from layerpace.layers.selection import excluded, is_vector, segment_sizes

__all__ = [
    "REST", "ROLES", "Exclude", "ParameterLayers", "Role", "Roles", "Segments", "by_role", "decay", "describe",
    "excluded", "is_vector", "matching", "multiplier", "mup", "prioritize", "roles", "segment_sizes",
]  # fmt: skip
