"""Which parameters `exclude` covers, and how `segments` cuts one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from layerpace.engine.common.checks import check_whole, plain
from layerpace.layers.base import Exclude, Segments


def is_vector(name: str, param: Tensor) -> bool:
    """True of tensors with at most one dimension: biases, norm scales, single numbers."""
    return param.ndim <= 1


def excluded(exclude: Exclude, name: str, param: Tensor) -> bool:
    """Whether ``exclude`` covers the parameter.

    Args:
        exclude: None or an empty sequence (nothing), a bool, a glob or globs over names, or a predicate of
            (name, parameter), such as `matching`.

    Raises:
        ValueError: a glob where the parameter has no name.
        TypeError: none of the forms above.
    """
    exclude = plain(exclude)
    if exclude is None or isinstance(exclude, bool):
        return bool(exclude)
    if callable(exclude):
        return bool(exclude(name, param))
    return any(matches(pattern, name, "exclude") for pattern in globs_of(exclude))


def globs_of(patterns: Any, argument: str = "exclude") -> tuple[str, ...]:
    globs = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Sequence) else None
    if globs is None or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"{argument} must be None, a bool, a glob, a list of globs or a predicate, got {patterns!r}")
    return globs


def matches(pattern: str, name: str, argument: str) -> bool:
    if not name:
        raise ValueError(
            f"{argument}={pattern!r} selects by name, and the parameters have none: "
            "pass model.named_parameters() instead of model.parameters(), or exclude=layerpace.layers.matching("
            "model, globs) where a trainer makes the param groups"
        )
    return fnmatchcase(name, pattern)


def segment_sizes(segments: Segments, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Rows of dimension 0 in each segment.

    Args:
        segments: a number of equal parts, the sizes of the parts, or "rows".
        name: of the parameter, for the error.
        shape: of the parameter.

    Raises:
        ValueError: the parts do not fit dimension 0.
    """
    where = f"segments of {name!r} with shape {tuple(shape)}"
    if len(shape) == 0:
        raise ValueError(f"{where}: a tensor without dimensions cannot be cut")
    rows, segments = shape[0], plain(segments)
    if isinstance(segments, str) and segments == "rows":
        return (1,) * rows
    if isinstance(segments, (bool, str)):
        raise ValueError(f'{where}: must be a number of equal parts, sizes, or "rows", got {segments!r}')
    if isinstance(segments, int):
        if segments < 1 or rows % segments:
            raise ValueError(f"{where}: {rows} rows cannot be cut into {segments} equal parts; pass the sizes")
        return (rows // segments,) * segments
    if not isinstance(segments, Iterable):
        raise ValueError(f'{where}: must be a number of equal parts, sizes, or "rows", got {segments!r}')
    sizes = tuple(check_whole(f"{where}: a size", size) for size in segments)
    if not sizes or min(sizes) < 1 or sum(sizes) != rows:
        raise ValueError(f"{where}: sizes must be positive and sum to {rows}, got {list(sizes)}")
    return sizes
