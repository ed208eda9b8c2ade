"""Names of layers, shortened together so that they still differ."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(layers: Sequence[str], longest: int) -> list[str]:
    """Without ".weight", and if one is longer than `longest` without the leading parts that all share."""
    names = [name.removesuffix(".weight") for name in layers]
    if len(names) < 2 or max(map(len, names)) <= longest:
        return names
    parts = [name.split(".") for name in names]
    shared = 0
    while len({tuple(part[: shared + 1]) for part in parts}) == 1 and all(len(part) > shared + 1 for part in parts):
        shared += 1
    return [".".join(part[shared:]) for part in parts]
