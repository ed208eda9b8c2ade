"""What each tensor of a network is for, which decides how it should move; its shape does not tell.

An embedding and a hidden matrix are both 2-D. Roles are found by the types of modules, by ties, and, with an example
input, by how the forward pass uses each tensor (`layerpace.layers.uses`); never by the names of one model family.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layerpace.engine.common.checks import check_choice
from layerpace.layers.base import is_lazy
from layerpace.layers.uses import Graph, Use, record
from layerpace.layers.wrappers import named_parameters, plain_names, unwrapped

ROLES = ("hidden", "expert", "input", "embedding", "head", "vector")
REST = "rest"  # in `by_role`: every role that is not named

Models: TypeAlias = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
Overrides: TypeAlias = Mapping[str | Callable[[str, Tensor], bool], str]


@dataclass(frozen=True)
class Role:
    """What one parameter is for.

    Attributes:
        name: of the parameter, as the model inside of wrappers names it.
        parameter: the tensor.
        role: one of `ROLES`.
        because: the evidence, in a few words.
        sure: whether that settles it; else the role is a guess, which `by_role` warns of.
        also: other names of the same tensor.
        experts: how many matrices are stacked in it, each a segment; 1: it is one.
    """

    name: str
    parameter: Tensor
    role: str
    because: str
    sure: bool = True
    also: tuple[str, ...] = ()
    experts: int = 1


class Roles(Mapping[str, Role]):
    """{name: `Role`} of a model's parameters, in their order; printed as a table."""

    def __init__(self, entries: Sequence[Role]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Role:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, role: str) -> list[Role]:
        """The parameters of one role."""
        check_choice("role", role, ROLES)
        return [entry for entry in self.values() if entry.role == role]

    @property
    def doubtful(self) -> list[Role]:
        """Those whose role is a guess."""
        return [entry for entry in self.values() if not entry.sure]

    def table(self) -> str:
        """One line per parameter: name, shape, role with "?" where it is a guess, and why."""
        rows = [("parameter", "shape", "role", "because")]
        for entry in self.values():
            shape = "lazy" if is_lazy(entry.parameter) else "x".join(map(str, entry.parameter.shape)) or "()"
            also = f"; also {', '.join(entry.also)}" if entry.also else ""
            frozen = "" if entry.parameter.requires_grad else "; frozen"
            role = entry.role if entry.sure else f"{entry.role}?"
            rows.append((entry.name, shape, role, entry.because + also + frozen))
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        counts = {role: len(found) for role in ROLES if (found := self.of(role))}
        return (
            f"Roles({', '.join(f'{role}: {count}' for role, count in counts.items())}; {len(self.doubtful)} in doubt)"
        )


def roles(model: Models, example_input: Any = None, overrides: Overrides | None = None) -> Roles:
    """The role of every parameter: what it is for, why that is so, and whether it is certain.

    =============  ====================================================================================
    ``hidden``     weights of linear and convolution layers between features, attention included
    ``expert``     stacked hidden matrices, [experts, out, in]; each is a segment
    ``input``      the first projection of raw input: patch embedding, stem
    ``embedding``  rows looked up by number, learned positions; also where the head shares it
    ``head``       the last projection, to classes, words or pixels
    ``vector``     biases, scales of norms, anything with at most one dimension
    =============  ====================================================================================

    With ``example_input`` one forward pass in evaluation mode shows what is multiplied with what, which weights read
    raw input, and which the outputs pass through last. Without it only types, registration order and ties speak, and
    first and last layers are guesses.

    Args:
        model: the network, in any wrapper (DDP, FSDP2, torch.compile, ...), also on the meta device; or several, as a
            list or a dict, whose names get "0.", "1.", ... or the keys put before them.
        example_input: what forward takes, a tensor, a tuple of positional arguments or a dict of keyword arguments; of
            several models a list or a dict of those.
        overrides: {glob over names, or predicate of (name, parameter): role}; the first that matches counts.

    Raises:
        TypeError: not a module.
        ValueError: an unknown role, a glob that matches no name, or a model without parameters.

    Example:
        >>> import torch, layerpace as lp
        >>> linear, relu = torch.nn.Linear, torch.nn.ReLU()
        >>> net = torch.nn.Sequential(linear(4, 8), relu, linear(8, 8), linear(8, 2))
        >>> print(lp.layers.roles(net, torch.ones(1, 4)))
        parameter  shape  role    because
        0.weight   8x4    input   reads raw input
        0.bias     8      vector  one dimension
        2.weight   8x8    hidden  between features
        2.bias     8      vector  one dimension
        3.weight   2x8    head    the output's last product
        3.bias     2      vector  one dimension
    """
    found = [
        replace(entry, name=f"{prefix}{entry.name}", also=tuple(f"{prefix}{name}" for name in entry.also))
        for prefix, module, example in _models(model, example_input)
        for entry in _roles(module, example)
    ]
    if not found:
        raise ValueError(f"{_called(model)} has no parameters")
    return Roles(_overridden(found, overrides or {}))


def by_role(
    model: Models,
    methods: Mapping[str, Mapping[str, Any]],
    example_input: Any = None,
    overrides: Overrides | None = None,
) -> list[dict[str, Any]]:
    """Param groups by role: each with the options that ``methods`` has for it, for any optimizer of layerpace.

    Frozen parameters (``requires_grad=False``) are left out.

    Args:
        model, example_input, overrides: see `roles`.
        methods: {role: options of its group, such as ``direction``, ``rule``, ``lr``, ``weight_decay``}; "rest" stands
            for every role that is not named.

    Returns:
        One group per role that has parameters, in the order of ``methods``, with named parameters and a "role". Experts
        are cut into segments, unless the options say otherwise.

    Raises:
        ValueError: an unknown role; or a role of some parameters that has no method.

    Warns:
        UserWarning: roles that are guesses, with what to pass.

    Example:
        >>> import torch, layerpace as lp
        >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> groups = lp.layers.by_role(
        ...     net,
        ...     {"hidden": dict(rule="rotation", lr=0.02), "rest": dict(direction="adam", rule="identity", lr=1e-3)},
        ...     example_input=torch.zeros(1, 2, dtype=torch.long),
        ... )
        >>> optimizer = lp.Layerwise(groups, direction="adam", rule="identity", lr=1e-3)
        >>> [(group["role"], group["param_names"]) for group in optimizer.param_groups]
        [('hidden', ['1.weight']), ('rest', ['0.weight', '1.bias', '2.weight', '2.bias'])]
    """
    for role in methods:
        check_choice("role", role, (*ROLES, REST))
    found = roles(model, example_input, overrides)
    _warn(found.doubtful)
    groups: dict[str, dict[str, Any]] = {}
    lost: dict[str, list[str]] = {}
    for name, entry in found.items():
        if not entry.parameter.requires_grad:
            continue
        role = entry.role if entry.role in methods else REST
        if role not in methods:
            lost.setdefault(entry.role, []).append(name)
            continue
        group = groups.setdefault(role, {"params": [], "role": role, **methods[role]})
        group["params"].append((name, entry.parameter))
        if entry.experts > 1 and "segments" not in methods[role]:
            group.setdefault("segments", {})[name] = entry.experts
    if lost:
        listed = "; ".join(
            f"{role}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}" for role, names in lost.items()
        )
        raise ValueError(f"methods has none for some roles ({listed}): add them, or one for {REST!r}")
    return [groups[role] for role in methods if role in groups]


def _models(model: Models, example_input: Any) -> Iterator[tuple[str, nn.Module, Any]]:
    """(what comes before its names, module, example input) of each model."""
    if isinstance(model, nn.Module):
        yield "", model, example_input
        return
    keys = list(model) if isinstance(model, Mapping) else list(range(len(model)))
    if example_input is not None and len(example_input) != len(keys):
        raise ValueError(f"example_input must have one entry per model, {len(keys)}, got {len(example_input)}")
    for key in keys:
        module = model[key]  # type: ignore[index]
        if not isinstance(module, nn.Module):
            raise TypeError(f"roles need a torch.nn.Module, or several, got {type(module).__name__} for {key!r}")
        yield f"{key}.", module, None if example_input is None else example_input[key]


def _called(model: Models) -> str:
    return f"the module {type(model).__name__}" if isinstance(model, nn.Module) else "the list of modules"


def _overridden(entries: list[Role], overrides: Overrides) -> list[Role]:
    unused = set()
    for key, role in overrides.items():
        check_choice("role", role, ROLES)
        if isinstance(key, str):
            unused.add(key)
    out = []
    for entry in entries:
        for key, role in overrides.items():
            named = isinstance(key, str) and any(fnmatchcase(name, key) for name in (entry.name, *entry.also))
            if named or (not isinstance(key, str) and key(entry.name, entry.parameter)):
                unused.discard(key)
                because = f"override {key!r}" if isinstance(key, str) else "an override"
                entry = replace(entry, role=role, because=because, sure=True)
                break
        out.append(entry)
    if unused:
        shown = ", ".join(repr(entry.name) for entry in entries[:5])
        raise ValueError(f"overrides: {sorted(unused)[0]!r} matches no parameter; the names are {shown}, ...")
    return out


def _warn(doubtful: Sequence[Role]) -> None:
    if doubtful:
        listed = ", ".join(f"{entry.name!r} ({entry.role}: {entry.because})" for entry in doubtful[:5])
        more = f" and {len(doubtful) - 5} more" if len(doubtful) > 5 else ""
        warnings.warn(
            f"roles that are guesses: {listed}{more}. Pass example_input, or say what they are: "
            f"overrides={{{doubtful[0].name!r}: {doubtful[0].role!r}, ...}}",
            stacklevel=3,
        )


# One model


@dataclass
class _Owner:
    module: nn.Module
    local: str  # the parameter's name there
    place: int  # of the module among those that hold matrices, in their order of registration


def _roles(model: nn.Module, example_input: Any) -> Iterator[Role]:
    inside = unwrapped(model)
    graph = Graph() if example_input is None else record(model, example_input)
    names = _names(model)
    owners = _owners(inside)
    first, last = _ends_by_structure(inside, owners)
    outputs = _output_embedding(inside)
    for name, param in named_parameters(model):
        also = tuple(other for other in names.get(param, ()) if other != name)
        entry = Role(name, param, "hidden", "", also=also)
        use, own = graph.uses.get(param), owners.get(param, [])
        ends = param is first, param is last and outputs is None  # else the model has said which its head is
        yield _judged(entry, use, own, graph, *ends, param is outputs)


def _names(model: nn.Module) -> dict[Tensor, tuple[str, ...]]:
    """Every name of every parameter, without the words of wrappers."""
    plain, found = plain_names(model), dict[Tensor, tuple[str, ...]]()
    for name, param in model.named_parameters(remove_duplicate=False):
        found[param] = (*found.get(param, ()), plain(name))
    return found


def _owners(model: nn.Module) -> dict[Tensor, list[_Owner]]:
    found: dict[Tensor, list[_Owner]] = {}
    place = 0
    for module in model.modules():
        own = [(local, p) for local, p in module._parameters.items() if p is not None]
        for local, param in own:
            found.setdefault(param, []).append(_Owner(module, local, place))
        place += any(not is_lazy(p) and p.ndim >= 2 for _, p in own)
    return found


def _judged(
    entry: Role, use: Use | None, owners: list[_Owner], graph: Graph, first: bool, last: bool, output: bool
) -> Role:
    """The entry with its role, by the first evidence that speaks."""
    param = entry.parameter
    kinds = {kind for owner in owners if (kind := _kind(owner)) is not None}

    def is_(role: str, because: str, sure: bool = True, experts: int = 1) -> Role:
        return replace(entry, role=role, because=because, sure=sure, experts=experts)

    if is_lazy(param):
        return _of_lazy(is_, kinds, owners)
    if param.ndim <= 1:
        return is_("vector", "one dimension" if param.ndim else "a single number")
    if "norm" in kinds:
        return is_("vector", "the scale or shift of a norm")
    if "embedding" in kinds or (use is not None and use.lookup):
        return is_(
            "embedding",
            "looked up, and shared with the head" if _is_tied(use, kinds, output) else "looked up by number",
        )
    if "recurrent" in kinds:
        return is_("hidden", "from state to state")
    stacked = param.shape[0] if param.ndim == 3 and not kinds & {"linear", "convolution"} else 1
    if use is not None:
        if use.product:
            if stacked > 1:
                return is_("expert", f"{stacked} stacked matrices", experts=stacked)
            if use.last:
                return is_("head", "the output's last product")
            return is_("input", "reads raw input") if use.raw else is_("hidden", "between features")
        if use.added:
            return is_("embedding", "added to features, as learned positions are")
        return is_("vector", "scales features entry by entry")
    if output:
        return is_("head", "the model's output embedding")
    if graph.uses and kinds & {"linear", "convolution"}:
        return is_("hidden", "a layer that the example did not use", sure=False)
    if stacked > 1:
        return is_("expert", f"{stacked} stacked matrices, by shape", sure=False, experts=stacked)
    if not kinds & {"linear", "convolution", "recurrent input"}:
        return is_("hidden", "a tensor of no known module", sure=False)
    if last:
        return is_("head", "registered last", sure=False)
    if first:
        return is_("input", "registered first", sure=False)
    return is_("hidden", "between features")


def _of_lazy(is_: Callable[..., Role], kinds: set[str], owners: list[_Owner]) -> Role:
    if any(owner.local == "bias" for owner in owners) or "norm" in kinds:
        return is_("vector", "a bias or a norm of a lazy module")
    return is_("hidden", "a lazy module: its first call tells more", sure=False)


def _is_tied(use: Use | None, kinds: set[str], output: bool) -> bool:
    return output or (use is not None and use.product) or "linear" in kinds


def _kind(owner: _Owner) -> str | None:
    """What the type of its module says of a parameter."""
    module, local = owner.module, owner.local
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.RNNBase):
        return "recurrent" if local.startswith("weight_hh") else "recurrent input"
    if isinstance(module, nn.RNNCellBase):
        return "recurrent" if local == "weight_hh" else "recurrent input"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if isinstance(module, (nn.Linear, nn.Bilinear, nn.MultiheadAttention)):
        return "linear"
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)):
        return "norm"
    words = type(module).__name__
    if words.endswith("Norm") or "RMSNorm" in words or "LayerNorm" in words:
        return "norm"
    weight = getattr(module, "weight", None)
    if words == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:  # GPT-2's linear layer, [in, out]
        return "linear"
    return None


def _ends_by_structure(model: nn.Module, owners: Mapping[Tensor, list[_Owner]]) -> tuple[Tensor | None, Tensor | None]:
    """The first and the last weight in the order of registration; no first one where an embedding comes before it."""
    weights = [
        p for p, own in owners.items() if not is_lazy(p) and p.ndim >= 2 and not {_kind(o) for o in own} & {"norm"}
    ]
    if not weights:
        return None, None
    embeds = any(_kind(own) == "embedding" for own in owners[weights[0]])
    last = weights[-1]
    return (None if embeds or len(weights) == 1 else weights[0]), last


def _output_embedding(model: nn.Module) -> Tensor | None:
    """The weight that a model of transformers says its words are scored by."""
    get: Any = getattr(model, "get_output_embeddings", None)
    if not callable(get):
        return None
    try:
        weight = getattr(get(), "weight", None)
    except (NotImplementedError, AttributeError, TypeError):
        return None
    return weight if isinstance(weight, torch.Tensor) else None
