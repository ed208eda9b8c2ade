"""The layers of the parameters in an optimizer's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from layerpace.engine.common.checks import plain
from layerpace.layers.base import Exclude, ParameterLayers, Segments, is_lazy
from layerpace.layers.selection import excluded, globs_of, matches, segment_sizes


def describe(
    name: str, place: str, param: Tensor, exclude: Exclude, segments: Mapping[str, Segments] | Segments | None
) -> ParameterLayers:
    """The layers of one parameter; of a lazy one, which has no shape yet, what its name tells.

    Args:
        name: of the parameter, "" where none is known; ``place`` stands for it then.
        segments: a mapping from glob to parts, or the parts themselves.

    Raises:
        ValueError: a glob where the parameter has no name, or parts that do not fit.
    """
    parts: Segments | None = None
    if isinstance(segments, Mapping):
        found = [value for glob, value in segments.items() if matches(glob, name, "segments")]
        if len(found) > 1:
            raise ValueError(f"more than one glob of segments matches {name!r}: {sorted(segments)}")
        parts = found[0] if found else None
    else:
        parts = segments
    said = exclude, segments
    if is_lazy(param):
        return ParameterLayers(name or place, not callable(exclude) and excluded(exclude, name, param), said=said)
    sizes = None if parts is None else segment_sizes(parts, name or place, param.shape)
    out, cut = excluded(exclude, name, param), sizes if sizes and len(sizes) > 1 else None
    return ParameterLayers(name or place, out, cut, tuple(param.shape), said)


def describe_group(
    group: Mapping[str, Any],
    index: int,
    exclude: Exclude,
    segments: Mapping[str, Segments] | Segments | None,
    known: Mapping[Any, ParameterLayers] | None = None,
) -> dict[Tensor, ParameterLayers]:
    """The layers of each parameter of param group ``index``, whose own "exclude" and "segments" come first.

    Args:
        group, index: of the optimizer.
        exclude, segments: of the optimizer.
        known: layers that were described before, by parameter and by name. A parameter among them keeps its layers if
            it has kept its shape; else it, or what now has its name, is described by what was said then.

    Raises:
        ValueError: also where a group holds a parameter twice, or has a glob that matches nothing.
    """
    params, known = group["params"], known or {}
    if len(set(params)) < len(params):
        raise ValueError(f"parameter group {index} contains the same parameter twice")
    if "exclude" in group or "segments" in group:
        own_segments = group.get("segments")
        check_globs([group], group.get("exclude"), own_segments if isinstance(own_segments, Mapping) else None)
    said = group.get("exclude", exclude), group.get("segments", segments)
    names = group.get("param_names") or [""] * len(params)
    found: dict[Tensor, ParameterLayers] = {}
    for k, (name, param) in enumerate(zip(names, params, strict=True)):
        place = f"group {index}, parameter {k}"
        before = known.get(param, known.get(name or place))
        if before is not None and param in known and before.describes(param):
            found[param] = before
        else:
            by = said if before is None or before.said is None else before.said
            found[param] = describe(name, place, param, *by)
    return found


def all_described(groups: Sequence[Mapping[str, Any]], known: Mapping[Tensor, ParameterLayers]) -> bool:
    """Whether the layers of every parameter are known, for the shape that it has now."""
    return all(
        (cut := known.get(param)) is not None and cut.describes(param) for group in groups for param in group["params"]
    )


def describe_again(
    groups: Sequence[Mapping[str, Any]],
    known: Mapping[Tensor, ParameterLayers],
    exclude: Exclude,
    segments: Mapping[str, Segments] | None,
) -> dict[Tensor, ParameterLayers]:
    """The layers of the parameters that are in the groups now, in their order; of those that have gone nothing is kept.

    Parameters may have been put there by hand, or have another shape than they had: a lazy module gives them one in its
    first forward pass, and ``param.data = ...`` another. Where all places have what they had, or another tensor of that
    name and shape (accelerate puts the shards of FSDP2 there), the layers are those of the place; else new ones are
    described.
    """
    places = [
        ((name, f"group {index}, parameter {k}"), param)
        for index, group in enumerate(groups)
        for k, (name, param) in enumerate(
            zip(group.get("param_names") or [""] * len(group["params"]), group["params"], strict=True)
        )
    ]
    if len(places) == len(known) and all(
        cut.name in names and cut.describes(param)  # a state dict may have brought names
        for (names, param), cut in zip(places, known.values(), strict=True)
    ):
        exchanged = {param: cut for (_, param), cut in zip(places, known.values(), strict=True)}
        if len(exchanged) == len(places):
            return exchanged
    before: dict[Any, ParameterLayers] = {cut.name: cut for cut in known.values()}
    before |= known
    found: dict[Tensor, ParameterLayers] = {}
    for index, group in enumerate(groups):
        found |= describe_group(group, index, exclude, segments, before)
    return found


def check_globs(groups: Sequence[Mapping[str, Any]], exclude: Exclude, segments: Mapping[str, Segments] | None) -> None:
    """Raise ValueError for a glob that matches no parameter's name: it is likely a typing error."""
    names = [name for group in groups for name in group.get("param_names") or [""] * len(group["params"])]
    for argument, glob in _patterns(exclude, segments):
        if not any(matches(glob, name, argument) for name in names):
            shown = ", ".join(repr(name) for name in names[:5])
            raise ValueError(f"{argument}={glob!r} matches no parameter; the names are {shown}, ...")


def _patterns(exclude: Exclude, segments: Mapping[str, Segments] | None) -> list[tuple[str, str]]:
    """The (argument, glob) pairs that a user gave, so that one which matches no parameter can be reported."""
    exclude = plain(exclude)
    globs = [] if exclude is None or isinstance(exclude, bool) or callable(exclude) else list(globs_of(exclude))
    return [("exclude", glob) for glob in globs] + [("segments", glob) for glob in segments or ()]
