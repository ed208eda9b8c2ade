"""muP: rates by width, so that what is best for a narrow model is best for a wide one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from layerpace.engine.common.checks import check_choice, check_whole
from layerpace.layers.base import Exclude, is_lazy, known_shape
from layerpace.layers.groups import Rated, check_names, make_groups
from layerpace.layers.selection import globs_of
from layerpace.layers.wrappers import is_a, named_parameters, plain_names

KINDS = ("adam", "sgd")

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)  # whose matrices are [fan-out, fan-in]
TRANSFORMERS_CONV1D = "transformers.pytorch_utils", "Conv1D"


def mup(
    model: nn.Module,
    base: nn.Module | Mapping[str, Sequence[int]],
    lr: float | Tensor,
    *,
    optimizer: str = "adam",
    readout: str | Sequence[str] = (),
    fan_in: Mapping[str, int | None] | None = None,
    weight_decay: float | None = None,
    no_decay: Exclude = "auto",
    lr_scale: bool = False,
) -> list[dict[str, Any]]:
    """Width multipliers of muP: param groups whose rate follows each tensor's growth against a narrow model::

        n_in  = fan_in  / fan_in of base        1 of embeddings and vectors, and where the input has a fixed size
        n_out = fan_out / fan_out of base
        lr / n_in                               optimizer="adam": the step has the size of lr, whatever the gradient's
        lr * n_out / n_in                       optimizer="sgd": the step is proportional to the gradient

    So with Adam hidden matrices and the head get lr / n_in, all else keeps lr. With SGD input, embeddings and vectors
    get lr * n_out, hidden matrices that grow alike on both sides lr, and the head lr / n_in.

    Rates are half of it, the model is the other. The variance of initial weights must go with 1 / fan_in (as that of
    torch's layers does; not that of embeddings), of the head with 1 / fan_in², or start at zero; and attention divides
    by the size of a head where that grows, not by its root. "adam" is for all that divide each entry of the gradient
    by its size: Adam, AdamW, RMSProp, Lion. A trust ratio or a rotation sets the length of a step by the layer's norm,
    and needs none of it.

    Args:
        model: the network.
        base: the same network, narrower, at whose width ``lr`` was found; it may live on the "meta" device. Or the
            shapes of its parameters by name.
        lr: the rate at the width of ``base``, > 0: a number, or a tensor with one element.
        optimizer: "adam" or "sgd".
        readout: a glob or globs over names of heads whose output the model divides by n_in (table 8). Their initial
            weights do not depend on the width then, and their rate is lr with Adam, lr * n_in with SGD. A head that
            is tied to the embedding must be one of them.
        fan_in: {glob of names: dimension} of tensors whose module does not tell which dimension is the fan-in; None
            for those without (positions, tokens). Modules of torch tell, and ``Conv1D`` of transformers.
        weight_decay: lambda of tensors that keep lr, >= 0; others get what keeps lr * weight_decay, as in the
            authors' package. None: groups say nothing of it.
        no_decay, lr_scale: see `decay`.

    Returns:
        A group for each multiplier (two where weight decay parts it), in the order of the parameters: "params" (pairs
        of name and tensor), "lr" and "initial_lr", "rate_scale" (the multiplier, for information; "lr_scale" if asked
        for), and "weight_decay" if given. Schedulers keep their ratios; see `decay`.

    Raises:
        ValueError: names or numbers of dimensions differ from those of ``base``; a tensor whose fan-in is not known
            and matters; a tied head that is no ``readout``; what `decay` refuses.

    Example:
        >>> import torch, layerpace as lp
        >>> def network(width):
        ...     sizes = [(10, width), (width, width), (width, 2)]
        ...     return torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
        >>> groups = lp.layers.mup(network(512), base=network(64), lr=0.008)
        >>> optimizer = torch.optim.Adam(groups)
        >>> for group in optimizer.param_groups:
        ...     print(group["lr"], *group["param_names"])
        0.008 0.weight 0.bias 1.bias 2.bias
        0.001 1.weight 2.weight

    Reference: Yang, Hu et al., "Tensor programs V: tuning large neural networks via zero-shot hyperparameter
    transfer", 2021, table 3; with ``readout`` table 8.
    """
    check_choice("optimizer", optimizer, KINDS)
    named, holders = dict(named_parameters(model)), _holders(model)
    shapes = _shapes(base)
    _check_same(named, shapes)
    aliases = [alias for held in holders.values() for alias in held]
    check_names("readout", readout, aliases)
    check_names("fan_in", tuple(fan_in or ()), list(named))
    rated: list[Rated] = []
    for name, param in named.items():
        scale = 1.0
        if param.requires_grad:
            growth = [size / small if small else 1.0 for size, small in zip(param.shape, shapes[name], strict=True)]
            held = holders[param]
            divided = any(fnmatchcase(alias, glob) for alias in held for glob in globs_of(readout, "readout"))
            axis = _fan_in(name, param, growth, list(held.values()), fan_in or {}, divided)
            n_in = 1.0 if axis is None else growth[axis]
            n_out = prod(grown for k, grown in enumerate(growth) if k != axis)
            if divided:
                n_in, n_out = 1.0, n_out * n_in
            scale = 1 / n_in if optimizer == "adam" else n_out / n_in
        rated.append(Rated(name, param, scale))
    return make_groups(rated, lr, weight_decay, no_decay, lr_scale, keep_product=True)


def _fan_in(
    name: str,
    param: Tensor,
    growth: Sequence[float],
    held_by: Sequence[nn.Module],
    told: Mapping[str, int | None],
    divided: bool,
) -> int | None:
    """The dimension of a tensor that is its fan-in; None: it has none, or none that grows."""
    for glob, axis in told.items():
        if fnmatchcase(name, glob):
            if axis is not None and check_whole(f"fan_in[{glob!r}]", axis) >= param.ndim:
                raise ValueError(f"fan_in[{glob!r}] must be below {param.ndim}, the dimensions of {name!r}, got {axis}")
            return axis
    grown = [k for k, times in enumerate(growth) if times != 1]
    lookups = [isinstance(module, EMBEDDINGS) for module in held_by]
    if any(lookups):
        if grown and not all(lookups) and not divided:
            raise ValueError(
                f"{name!r} is embedding and head in one, whose rates differ in muP: let the model divide the head's "
                "output by fan_in / base fan_in, and pass the tensor's name as readout"
            )
        return None
    axis = _axis_of(held_by[0], param)
    if axis is not None:
        return axis
    shape = param.shape
    is_vector = sum(size > 1 for size in shape) <= 1 or (shape[0] == 1 and grown == [len(shape) - 1])
    if not grown or is_vector or isinstance(held_by[0], NORMS):
        return None
    if len(grown) == 2 and growth[grown[0]] == growth[grown[1]]:
        return grown[1]  # either gives the same rate
    kind = type(held_by[0]).__name__
    raise ValueError(
        f"{name!r} of a {kind} has shape {tuple(shape)}, and dimensions {grown} grow by "
        f"{[growth[k] for k in grown]}: which is its fan-in? Pass fan_in={{{name!r}: dimension}}, or None if it has "
        "none, as positions have"
    )


def _axis_of(module: nn.Module, param: Tensor) -> int | None:
    """The fan-in of a matrix of a kind of module that is known; None: it is not known."""
    if isinstance(module, _ConvTransposeNd):
        return 0 if module.groups == 1 and param.ndim > 1 else None
    if isinstance(module, _ConvNd):
        return 1 if param.ndim > 1 else None
    if is_a(module, TRANSFORMERS_CONV1D):
        return 0 if param.ndim == 2 else None
    return 1 if isinstance(module, LINEAR) and param.ndim == 2 else None


def _holders(model: nn.Module) -> dict[Tensor, dict[str, nn.Module]]:
    """The modules that hold each parameter, by the name that it has there."""
    plain, found = plain_names(model), dict[Tensor, dict[str, nn.Module]]()
    for place, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(param, {})[plain(f"{place}.{name}" if place else name)] = module
    return found


def _shapes(base: nn.Module | Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    if isinstance(base, nn.Module):
        base = {name: known_shape(param) or () for name, param in named_parameters(base)}
    if not isinstance(base, Mapping):
        raise TypeError(f"base must be a module or the shapes of its parameters by name, got {type(base).__name__}")
    return {name: tuple(shape) for name, shape in base.items()}


def _check_same(named: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless both have the same names, and each tensor as many dimensions in both."""
    lazy = [name for name, param in named.items() if is_lazy(param)]
    if lazy:
        raise ValueError(f"{', '.join(lazy[:5])} of a lazy module have no shape yet: call the model once before")
    for here, there, which in ((named, shapes, "model"), (shapes, named, "base")):
        alone = [name for name in here if name not in there]
        if alone:
            shown = ", ".join(map(repr, alone[:5]))
            raise ValueError(f"base must be the same network, narrower, but {shown} stand in the {which} alone")
    for name, param in named.items():
        if param.ndim != len(shapes[name]):
            raise ValueError(f"{name!r} has shape {tuple(param.shape)}, and {shapes[name]} in base: other dimensions")
