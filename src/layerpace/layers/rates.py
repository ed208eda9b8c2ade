"""Learning rates by layer, as the layer-rotation paper spreads them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from layerpace.engine.common.checks import check_number
from layerpace.layers.groups import check_lr, with_rate
from layerpace.layers.order import Named, forward_order, layer_numbers, owned


def multiplier(index: int, count: int, alpha: float) -> float:
    """The learning-rate multiplier of layer ``index`` of ``count`` in forward order (layer-rotation paper, eq. 1)::

    (1 - alpha)^(5*(count - 1 - index)/(count - 1))    alpha > 0: last layers first
    (1 + alpha)^(5*index/(count - 1))                  alpha <= 0: first layers first
    """
    if count == 1:
        return 1.0
    depth = index / (count - 1)
    return float((1 - alpha) ** (5 * (1 - depth)) if alpha > 0 else (1 + alpha) ** (5 * depth))


def prioritize(
    model: nn.Module, alpha: float, example_input: Any = None, lr: float | Tensor | None = None
) -> list[dict[str, Any]]:
    """Param groups whose rate falls or rises with depth (layer-rotation paper, eq. 1; figure 12).

    Layers are the modules that hold a tensor with two or more dimensions, in forward order; a bias has the
    multiplier of its module, a module with vectors only (a normalisation) that of the layer before it (see
    `multiplier`). Our optimizers multiply a group's lr by its ``lr_multiplier``; those of torch do not know the key,
    and obey an ``lr`` that has the multiplier in it.

    Args:
        model: the network.
        alpha: in [-1, 1]: below 0 the first layers train faster, above 0 the last, 0 all alike; at -1 and 1 one
            layer alone.
        example_input: what the model's forward takes, a tensor, a tuple of positional arguments or a dict of
            keyword arguments: one pass without gradients measures the order of the layers. None: the order in
            which the modules were registered, which need not be the order of the computation.
        lr: None: groups have an ``lr_multiplier``. A rate > 0 (a number or a tensor with one element), that of the
            fastest layer: groups have ``lr`` and ``initial_lr`` instead, for any torch optimizer and scheduler; see
            `decay` about these.

    Returns:
        One group for each multiplier, first layer first, with named parameters; with ``lr`` the multiplier is its
        "rate_scale".

    Raises:
        ValueError: alpha or lr out of range, or a model without such layers.

    Example:
        >>> import torch, layerpace as lp
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> [round(group["lr_multiplier"], 4) for group in lp.layers.prioritize(net, -0.5)]
        [1.0, 0.0312]
        >>> optimizer = lp.Layca(lp.layers.prioritize(net, -0.5), lr=0.01)
        >>> optimizer = torch.optim.SGD(lp.layers.prioritize(net, -0.5, lr=0.8))
        >>> [round(group["lr"], 4) for group in optimizer.param_groups]
        [0.8, 0.025]

    Reference: "Layer rotation: a surprisingly simple indicator of generalization in deep networks?", 2019.
    """
    alpha = check_number("alpha", alpha, -1, 1)
    lr = None if lr is None else check_lr(lr)
    parts = owned(forward_order(model, example_input), {p: name for name, p in model.named_parameters()})
    if not any(p.ndim >= 2 for part in parts for _, p in part):
        raise ValueError("the model has no tensor with two or more dimensions, so there is no layer to prioritize")
    numbers = layer_numbers(parts)
    groups: dict[float, Named] = {}
    for part, number in zip(parts, numbers, strict=True):
        if part:
            groups.setdefault(multiplier(number, numbers[-1] + 1, alpha), []).extend(part)
    if lr is None:
        return [{"params": params, "lr_multiplier": value} for value, params in groups.items()]
    return [{"params": params, **with_rate(lr, value)} for value, params in groups.items()]
