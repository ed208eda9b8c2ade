"""The order in which a network uses its modules and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layerpace.layers.base import is_lazy
from layerpace.layers.wrappers import FSDP2, is_a

Named: TypeAlias = list[tuple[str, Tensor]]


def forward_order(model: nn.Module, example_input: Any) -> list[nn.Module]:
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
            # FSDP2 leaves its outermost parameters whole after a pass without gradients, and those are not trained.
            if is_a(module, FSDP2):
                module.reshard()  # type: ignore[operator]
    for position, module in enumerate(owners):
        if module not in called:
            called.insert(called.index(owners[position - 1]) + 1 if position else 0, module)
    return called


def owned(modules: Sequence[nn.Module], names: Mapping[Tensor, str]) -> list[Named]:
    """The named parameters of each module; one that several modules share counts where it comes first.

    Raises:
        ValueError: a lazy module has not given a parameter its shape yet.
    """
    lazy = [name for param, name in names.items() if is_lazy(param)]
    if lazy:
        raise ValueError(
            f"{', '.join(lazy[:5])} of a lazy module have no shape yet, which tells what a layer is: "
            "pass example_input, or call the model once before"
        )
    seen: set[Tensor] = set()
    found: list[Named] = []
    for module in modules:
        fresh = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(fresh)
        found.append([(names[p], p) for p in fresh])
    return found


def layer_numbers(parts: Sequence[Named]) -> list[int]:
    """Which layer each module belongs to, from 0: one that holds a matrix begins a layer, others (norms) go with it."""
    numbers: list[int] = []
    index = -1
    for part in parts:
        index += any(p.ndim >= 2 for _, p in part)
        numbers.append(max(index, 0))
    return numbers
