"""Layer-wise learning-rate decay: rates by depth, for fine-tuning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from layerpace.engine.common.checks import check_number
from layerpace.layers.base import Exclude
from layerpace.layers.blocks import blocks
from layerpace.layers.groups import Rated, make_groups
from layerpace.layers.order import Named, forward_order, layer_numbers, owned
from layerpace.layers.wrappers import FSDP1, is_a, named_parameters, unwrapped


def decay(
    model: nn.Module,
    factor: float,
    lr: float | Tensor,
    example_input: Any = None,
    weight_decay: float | None = None,
    no_decay: Exclude = "auto",
    lr_scale: bool = False,
) -> list[dict[str, Any]]:
    """Layer-wise learning-rate decay: param groups whose rate falls from the head to the input::

        lr_k = lr * factor^(last - k)        k: depth

    Depth 0 is what comes before the first block (embeddings, a stem), block i is depth i + 1, and what comes after
    the last block is ``last``: pooler, head and the norm before it. What comes between two blocks goes with the one
    before. Blocks are the parts that a network repeats: transformer layers, residual blocks, also of several stages.
    Where nothing repeats, a depth is a module that holds a tensor with two or more dimensions, and a norm goes with
    the one before it. Names play no part, nor do wrappers such as DDP. A parameter that is used in several places
    counts at the first (a head tied to the embedding is depth 0). Frozen ones get no group, and shift nothing.

    Any optimizer obeys these groups, ours among them, and any scheduler that multiplies keeps their ratios. One that
    takes a rate in absolute numbers needs one for each group, and would else make all of them alike:
    ``OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], ...)``, the two of ``CyclicLR``
    likewise; ``min_lr`` and ``eta_min`` are best left at 0.

    Two towers, or several heads in a ModuleList, lie side by side and would count one after the other: make groups of
    each, and add the lists. FSDP1 flattens what tells layers apart, and is refused; with FSDP2 make groups
    on every process, after sharding.

    Args:
        model: the network.
        factor: in (0, 1]; 0.65 to 0.9 is usual, lower for small networks. 1: the same rate everywhere.
        lr: rate of the head, > 0, in the unit of the optimizer: a number, or a tensor with one element.
        example_input: what the model's forward takes, a tensor, a tuple of positional arguments or a dict of
            keyword arguments: one pass without gradients measures the order of the modules. None: the order in
            which they were registered, which is wrong where a model registers its head, or a norm of its embeddings,
            elsewhere than it uses them.
        weight_decay: lambda, >= 0, as the optimizer takes it. None: groups say nothing of it.
        no_decay: which tensors get a weight_decay of 0 instead: "auto" (those with at most one dimension), or
            in its place None, a glob or globs over names, or a predicate of (name, tensor).
        lr_scale: who multiplies. False: the rate is in ``lr``. True: every group has the same ``lr``, and
            ``lr_scale`` beside it, for those who multiply by that key and would do so twice: timm's schedulers, the
            scripts of BEiT and MAE. torch ignores the key.

    Returns:
        Groups from depth 0 to the last, two for a depth where weight decay parts it. Each has "params" (pairs of name
        and tensor), "lr" and "initial_lr", "depth", "rate_scale" (the factor's power, for information; "lr_scale" if
        asked for), and "weight_decay" if given.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range; a glob that matches no parameter; a model without parameters, or with frozen
            ones only; a lazy module without shapes.

    Example:
        >>> import torch, layerpace as lp
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Embedding(20, 8), torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(8, 3)
        ... )
        >>> optimizer = torch.optim.AdamW(lp.layers.decay(net, 0.5, lr=0.008, weight_decay=0.05))
        >>> for group in optimizer.param_groups:
        ...     print(group["depth"], group["lr"], group["weight_decay"], group["param_names"][0])
        0 0.001 0.05 0.weight
        1 0.002 0.05 1.layers.0.self_attn.in_proj_weight
        1 0.002 0.0 1.layers.0.self_attn.in_proj_bias
        2 0.004 0.05 1.layers.1.self_attn.in_proj_weight
        2 0.004 0.0 1.layers.1.self_attn.in_proj_bias
        3 0.008 0.05 2.weight
        3 0.008 0.0 2.bias

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification", 2018 (discriminative
    fine-tuning); Clark et al., "ELECTRA", 2020, appendix B; Bao et al., "BEiT", 2021, whose depths these are. timm's
    ``param_groups_layer_decay`` puts the final norm of a ViT to the last block instead.
    """
    factor = check_number("factor", factor, 0, 1, open_low=True)
    placed = by_depth(model, example_input)
    last = max(placed, default=0)
    rated = [
        Rated(name, param, factor ** (last - depth), {"depth": depth})
        for depth, params in sorted(placed.items())
        for name, param in params
    ]
    return make_groups(rated, lr, weight_decay, no_decay, lr_scale)


def by_depth(model: nn.Module, example_input: Any) -> dict[int, Named]:
    """The parameters at each depth, frozen ones too; see `decay`."""
    if any(is_a(module, FSDP1) for module in model.modules()):
        raise ValueError("FSDP1 flattens parameters, whose shapes tell what a layer is: shard by fully_shard (FSDP2)")
    inner = unwrapped(model)
    order = forward_order(inner, example_input)
    names = {param: name for name, param in named_parameters(model)}
    parts = owned(order, names)
    placed: dict[int, Named] = {}
    for part, depth in zip(parts, _depths(inner, order, parts), strict=True):
        if part:
            placed.setdefault(depth, []).extend(part)
    if (count := sum(map(len, placed.values()))) < len(names):
        raise ValueError(
            f"{len(names) - count} of {len(names)} parameters are held by a wrapper ({type(model).__name__}), and have "
            "no place in the model inside"
        )
    return placed


def _depths(model: nn.Module, order: list[nn.Module], parts: list[Named]) -> list[int]:
    """The depth of each module in ``order``."""
    block_of: dict[nn.Module, nn.Module] = {}
    for block in blocks(model):
        for module in block.modules():
            block_of.setdefault(module, block)
    if not block_of:
        return layer_numbers(parts)
    numbers: dict[nn.Module, int] = {}
    for module in order:
        if module in block_of:
            numbers.setdefault(block_of[module], len(numbers) + 1)
    end = max(place for place, module in enumerate(order) if module in block_of)
    depths: list[int] = []
    for place, module in enumerate(order):
        if module in block_of:
            depths.append(numbers[block_of[module]])
        elif place > end:
            depths.append(len(numbers) + 1)
        else:
            depths.append(depths[-1] if depths else 0)
    return depths
