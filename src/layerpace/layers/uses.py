"""How a model uses its parameters, read from the graph that autograd records of one forward pass.

Names and classes of modules say little about what a tensor is for: weights are used by functional calls, shared, or
registered in another order than they are used. The graph says what is multiplied with what, what comes straight from
the input, and what the outputs pass through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layerpace.layers.wrappers import FSDP2, is_a, unwrapped

# What leaves the entries of a weight as they are: what is behind such a node is the operand.
PASSES = (
    "T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Reshape", "Expand", "Squeeze", "Unsqueeze",
    "Slice", "Select", "Index", "Unbind", "Split", "SplitWithSizes", "Chunk", "Narrow", "AsStrided", "Alias", "Clone",
    "ToCopy", "Detach", "Contiguous", "Unflatten", "Flatten", "ViewAs", "Unfold", "Movedim", "SwapAxes",
)  # fmt: skip
PRODUCTS = (
    "Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Matmul", "Linear", "Mv", "Addmv", "Dot", "Convolution", "SlowConv",
    "Cudnn", "Mkldnn", "Miopen", "Thnn", "Bilinear", "Trilinear", "GroupedMm", "ScaledGroupedMm",
)  # fmt: skip
LOOKUPS = ("Embedding", "EmbeddingBag", "IndexSelect", "Gather")
SUMS = ("Add", "Sub", "Cat", "Stack", "Rsub")
NORMS = ("NativeLayerNorm", "NativeGroupNorm", "NativeBatchNorm", "RmsNorm", "FusedRmsNorm")


@dataclass
class Use:
    """How a parameter is used in a forward pass.

    Attributes:
        product: it is multiplied with features, as the weight of a linear layer or a convolution is.
        lookup: rows of it are looked up by number.
        added: it is added to features, or joined to them.
        scaled: features are multiplied by it entry by entry, or it is a norm's.
        raw: what it is multiplied with comes straight from the input.
        last: an output passes through this product, and through no other afterwards.
    """

    product: bool = False
    lookup: bool = False
    added: bool = False
    scaled: bool = False
    raw: bool = False
    last: bool = False


@dataclass
class Graph:
    """The uses of a model's parameters; empty where nothing was recorded."""

    uses: dict[Tensor, Use] = field(default_factory=dict)


def record(model: nn.Module, example_input: Any) -> Graph:
    """Run the model once, in evaluation mode, and read from the graph how it uses its parameters.

    Args:
        model: in any wrapper; gradients of its parameters stay as they are.
        example_input: what forward takes: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    """
    inside = unwrapped(model)
    aliases: dict[int, Tensor] = {}  # what FSDP2 puts in the place of a parameter while it is used
    handles = []
    for module in inside.modules():
        own: Mapping[str, Tensor] = {name: p for name, p in module._parameters.items() if p is not None}
        if own:

            def note(module: nn.Module, args: Any, own: Mapping[str, Tensor] = own) -> None:
                for name, param in own.items():
                    here = module._parameters.get(name)
                    if here is not None:
                        aliases[id(here)] = param

            handles.append(module.register_forward_pre_hook(note))
    try:
        with _recording(inside):
            if isinstance(example_input, Mapping):
                outputs = inside(**example_input)
            else:
                outputs = inside(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
    return _read(list(main_outputs(outputs)), aliases)


@contextmanager
def _recording(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with a graph that reaches every parameter, frozen ones included; afterwards all is as it was."""
    modes = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if not p.requires_grad and (p.is_floating_point() or p.is_complex())]
    try:
        model.eval()
        for param in frozen:
            param.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for param in frozen:
            param.requires_grad_(False)
        for module, mode in modes.items():
            module.training = mode
            if is_a(module, FSDP2):  # whose outermost parameters stay whole until a backward pass
                module.reshard()  # type: ignore[operator]


def main_outputs(outputs: Any) -> Iterator[Tensor]:
    """The tensors that a model is run for: of a dict its "logits", else the first; of a tuple those at its top."""
    if isinstance(outputs, Tensor):
        if outputs.grad_fn is not None:
            yield outputs
    elif isinstance(outputs, Mapping):
        tensors = [x for x in outputs.values() if isinstance(x, Tensor) and x.grad_fn is not None]
        logits = outputs.get("logits")
        yield from [logits] if isinstance(logits, Tensor) and logits.grad_fn is not None else tensors[:1]
    elif isinstance(outputs, Iterable):
        for item in outputs:
            if isinstance(item, Tensor) and item.grad_fn is not None:
                yield item


def _kind(node: Any) -> str:
    """The operation of a node, without "Backward" and its number."""
    name: str = node.name().rpartition("::")[2]
    return name.partition("Backward")[0]


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _operand(node: Any, aliases: Mapping[int, Tensor]) -> Tensor | None:
    """The parameter that a node hands on, as it is or in another shape."""
    while True:
        variable: Tensor | None = getattr(node, "variable", None)
        if variable is not None:
            return aliases.get(id(variable), variable)
        children = _children(node)
        if _kind(node) not in PASSES or len(children) != 1:
            return None
        node = children[0]


def _read(outputs: list[Tensor], aliases: Mapping[int, Tensor]) -> Graph:
    uses: dict[Tensor, Use] = {}
    products: dict[Any, list[Tensor]] = {}  # the weights of a product
    seen: set[Any] = set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        children = _children(node)
        waiting += children
        kind = _kind(node)
        if kind in PASSES:
            continue
        operands = [(child, _operand(child, aliases)) for child in children]
        weights = [p for _, p in operands if p is not None]
        others = [child for child, p in operands if p is None]
        for param in weights:
            use = uses.setdefault(param, Use())
            if kind.startswith(LOOKUPS):
                use.lookup = True
            elif kind.startswith(NORMS):
                use.scaled = True
            elif kind.startswith(PRODUCTS):
                use.product = True
                if param.ndim >= 2:
                    use.raw |= not others
                    products.setdefault(node, []).append(param)
            elif kind.startswith(SUMS):
                use.added = True
            else:
                use.scaled = True
    for output in outputs:
        ends = _ends(output.grad_fn, products)
        if len(ends) == 1 and (end := next(iter(ends))) is not None:
            for param in products[end]:
                uses[param].last = True
    return Graph(uses)


def _ends(start: Any, products: Mapping[Any, Any]) -> set[Any]:
    """The last products on every way to an output; None among them: a way to the input without any."""
    found: set[Any] = set()
    seen: set[Any] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in products:
            found.add(node)
        elif _kind(node).startswith(LOOKUPS):
            found.add(None)
        else:
            waiting += _children(node)
    return found
