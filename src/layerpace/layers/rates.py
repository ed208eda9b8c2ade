"""Learning rates by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from layerpace.engine.common.checks import check_number
from layerpace.layers.base import is_lazy


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
