"""Parameters -> layers: names, segments, exclusion, and multipliers of the learning rate.

A layer is what gets one row of the table: by default one tensor. It can be finer: ``segments`` cuts a tensor along
dimension 0 into layers of their own (the three parts of a fused QKV matrix, stacked experts, an embedding's rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from layerpace.checks import check_number, check_whole, plain
from layerpace.matching import matching

__all__ = [
    "Exclude", "ParameterLayers", "Segments", "describe", "excluded", "is_vector", "matching", "multiplier",
    "prioritize", "segment_sizes",
]  # fmt: skip

Exclude: TypeAlias = None | bool | str | Sequence[str] | Callable[[str, Tensor], bool]
Segments: TypeAlias = int | str | Sequence[int]


@dataclass(frozen=True)
class ParameterLayers:
    """How one parameter is cut into layers.

    Attributes:
        name: of the parameter; where none is known, its place among the groups.
        excluded: neither the layer rule nor weight decay applies.
        sizes: rows of dimension 0 in each layer; None: the tensor is one layer.
        shape: of the parameter that was described; None: it had none yet (a lazy module's).
        said: the ``exclude`` and ``segments`` that it was described by.
    """

    name: str
    excluded: bool = False
    sizes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = field(default=None, compare=False)
    said: tuple[Exclude, Mapping[str, Segments] | Segments | None] | None = field(
        default=None, compare=False, repr=False
    )

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterLayers:
        return self

    def __reduce__(self) -> Any:
        # A predicate or a sequence of the user's may refuse to be pickled, and what it said is known.
        return type(self), (self.name, self.excluded, self.sizes, self.shape)

    def describes(self, param: Tensor) -> bool:
        """Whether the parameter still has the shape that it was described with."""
        return self.shape == known_shape(param)

    @property
    def count(self) -> int:
        return 1 if self.sizes is None else len(self.sizes)

    def broadcast_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what is one number a layer and broadcasts over a tensor of ``shape``."""
        return () if self.sizes is None else (shape[0], *[1] * (len(shape) - 1))

    def memory(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """A rule's numbers before the first step: float64 [layers].

        Never of shape (): torch.distributed.checkpoint cannot load the whole state of an optimizer that has no more.
        """
        return {name: torch.zeros(self.count, dtype=torch.float64, device=device) for name in names}

    @property
    def layer_names(self) -> list[str]:
        return [self.name] if self.sizes is None else [f"{self.name}[{k}]" for k in range(len(self.sizes))]

    def entries(self, shape: Sequence[int]) -> list[int]:
        """Number of entries of each layer, for a parameter of that shape."""
        row = 1
        for size in shape[1:]:
            row *= size
        if self.sizes is None:
            return [row * (shape[0] if len(shape) else 1)]
        return [size * row for size in self.sizes]


def known_shape(param: Tensor) -> tuple[int, ...] | None:
    """The shape of a parameter; None: a lazy module has still to give it one."""
    return None if is_lazy(param) else tuple(param.shape)


def is_lazy(param: Any) -> bool:
    """Whether the parameter gets its shape in the first forward pass of its module (``nn.LazyLinear``)."""
    return isinstance(param, (UninitializedParameter, UninitializedBuffer))


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
    return any(_matches(pattern, name, "exclude") for pattern in _globs(exclude))


def _globs(patterns: Any) -> tuple[str, ...]:
    globs = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Sequence) else None
    if globs is None or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"exclude must be None, a bool, a glob, a list of globs or a predicate, got {patterns!r}")
    return globs


def _matches(pattern: str, name: str, argument: str) -> bool:
    if not name:
        raise ValueError(
            f"{argument}={pattern!r} selects by name, and the parameters have none: "
            "pass model.named_parameters() instead of model.parameters(), or exclude=layerpace.layers.matching("
            "model, globs) where a trainer makes the param groups"
        )
    return fnmatchcase(name, pattern)


def _patterns(exclude: Exclude, segments: Mapping[str, Segments] | None) -> list[tuple[str, str]]:
    """The (argument, glob) pairs that a user gave, so that one which matches no parameter can be reported."""
    exclude = plain(exclude)
    globs = [] if exclude is None or isinstance(exclude, bool) or callable(exclude) else list(_globs(exclude))
    return [("exclude", glob) for glob in globs] + [("segments", glob) for glob in segments or ()]


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
        found = [value for glob, value in segments.items() if _matches(glob, name, "segments")]
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
        if not any(_matches(glob, name, argument) for name in names):
            shown = ", ".join(repr(name) for name in names[:5])
            raise ValueError(f"{argument}={glob!r} matches no parameter; the names are {shown}, ...")


def multiplier(index: int, count: int, alpha: float) -> float:
    """The learning-rate multiplier of layer ``index`` of ``count`` in forward order (layer-rotation paper, eq. 1)::

    (1 - alpha)^(5*(count - 1 - index)/(count - 1))    alpha > 0: last layers first
    (1 + alpha)^(5*index/(count - 1))                  alpha <= 0: first layers first
    """
    if count == 1:
        return 1.0
    depth = index / (count - 1)
    return float((1 - alpha) ** (5 * (1 - depth)) if alpha > 0 else (1 + alpha) ** (5 * depth))


def prioritize(model: nn.Module, alpha: float, example_input: Any = None) -> list[dict[str, Any]]:
    """Param groups whose ``lr_multiplier`` falls or rises with depth (layer-rotation paper, eq. 1; figure 12).

    Layers are the modules that hold a tensor with two or more dimensions, in forward order; a bias has the
    multiplier of its module, a module with vectors only (a normalisation) that of the layer before it. Our
    optimizers multiply a group's lr by its ``lr_multiplier``; those of torch do not know the key.

    Args:
        model: the network.
        alpha: in [-1, 1]: below 0 the first layers train faster, above 0 the last, 0 all alike; at -1 and 1 one
            layer alone.
        example_input: what the model's forward takes, a tensor, a tuple of positional arguments or a dict of
            keyword arguments: one pass without gradients measures the order of the layers. None: the order in
            which the modules were registered, which need not be the order of the computation.

    Returns:
        One group for each multiplier, first layer first, with named parameters.

    Raises:
        ValueError: alpha out of range, or a model without such layers.

    Example:
        >>> import torch, layerpace as lp
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> [round(group["lr_multiplier"], 4) for group in lp.layers.prioritize(net, -0.5)]
        [1.0, 0.0312]
        >>> optimizer = lp.Layca(lp.layers.prioritize(net, -0.5), lr=0.01)
    """
    alpha = check_number("alpha", alpha, -1, 1)
    modules = _forward_order(model, example_input)
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"{', '.join(lazy[:5])} of a lazy module have no shape yet, which tells what a layer is: "
            "pass example_input, or call the model once before"
        )
    names = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    owned: list[list[tuple[str, nn.Parameter]]] = []
    for module in modules:
        fresh = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        owned.append([(names[id(p)], p) for p in fresh])
    is_layer = [any(p.ndim >= 2 for _, p in params) for params in owned]
    count = sum(is_layer)
    if count == 0:
        raise ValueError("the model has no tensor with two or more dimensions, so there is no layer to prioritize")
    groups: dict[float, list[tuple[str, nn.Parameter]]] = {}
    index = -1
    for params, layer in zip(owned, is_layer, strict=True):
        index += layer
        if params:
            groups.setdefault(multiplier(max(index, 0), count, alpha), []).extend(params)
    return [{"params": params, "lr_multiplier": value} for value, params in groups.items()]


def _forward_order(model: nn.Module, example_input: Any) -> list[nn.Module]:
    """Modules that own parameters, in the order of their first call.

    One that is never called (attention reads the weights of its output projection without calling it) follows the
    one that was registered before it.
    """
    owners = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    if example_input is None:
        return owners
    called: list[nn.Module] = []

    def note(module: nn.Module, args: Any) -> None:
        if module not in called:
            called.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in owners]
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            if isinstance(example_input, Mapping):
                model(**example_input)
            else:
                model(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    for position, module in enumerate(owners):
        if module not in called:
            called.insert(called.index(owners[position - 1]) + 1 if position else 0, module)
    return called
