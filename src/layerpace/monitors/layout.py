"""The layers of a model as its monitors name them: tensors, or segments of them, from input to output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer

from layerpace.engine.sharding.collectives import is_distributed
from layerpace.engine.sharding.shards import Shard, shard_of
from layerpace.layers.base import ParameterLayers
from layerpace.layers.wrappers import named_parameters
from layerpace.monitors.run import LayerInfo
from layerpace.monitors.shards import Shards
from layerpace.optim.base import Layerwise
from layerpace.optim.wrap import Wrapped


class Layout:
    """Layers of a model and of the optimizers that train it.

    Parameters that share their memory by being the same object are one layer, under their first name. One that stands
    where another has been is the same layer.

    Attributes:
        layers: those of the model in the order of ``named_parameters``, then those that only optimizers know.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.model, self.optimizers = model, optimizers
        self.layers: list[LayerInfo] = []
        self._names: dict[Tensor, tuple[str, ...]] = {}
        self._parameter_names: dict[Tensor, str] = {}
        self._places: dict[str, int] = {}  # of layers
        self._count = 0
        self._held: dict[Tensor, Shard] = {}
        self._lock = RLock()  # threads that read may find parameters that are new
        sharded: Any = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
        for module in model.modules():
            if isinstance(module, sharded):
                module.reshard()  # after a forward pass without backward it has other parameters, whole ones
        self.grown()
        self.refresh()

    def refresh(self) -> None:
        """Take in parameters that have been added, and which layers are trained by now."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        cuts = self.cuts()
        self._held = {param: held for param, held in self._held.items() if param in cuts}
        named = list(self._parameters())
        there = {param for _, param in named}
        for gone in [param for param in self._names if param not in there]:
            del self._names[gone], self._parameter_names[gone]
        known = set(self._parameter_names.values())
        lazy: dict[Tensor, str] = {}
        for name, param in named:
            if is_lazy(param):
                if lazy.setdefault(param, name) == name:
                    self._place(LayerInfo(name, (), trained=param in cuts and param.requires_grad))
            # FSDP2's whole parameters stand in the place of those that it shards, and no optimizer has them.
            elif param not in self._names and (param in cuts or name not in known):
                self._add(name, param, cuts.get(param))
        waiting = set(lazy.values())
        of_layer = {name: param for param, names in self._names.items() for name in names}
        for place, layer in enumerate(self.layers):
            if layer.name in waiting:
                continue
            owner = of_layer.get(layer.name)
            if owner is None or owner not in cuts:
                self.layers[place] = replace(layer, trained=False)
            else:
                excluded = cuts[owner].excluded
                self.layers[place] = replace(layer, trained=owner.requires_grad, excluded=excluded)

    def after_fork(self) -> None:
        """In a child of fork, whose parent may have been in the middle of it."""
        self._lock = RLock()

    @property
    def waits(self) -> bool:
        """Whether some parameters have no weights yet: they are on "meta", or their shape is not known."""
        return any(not has_weights(param) for _, param in self._parameters())

    def cuts(self) -> dict[Tensor, ParameterLayers]:
        """How each parameter of the optimizers is cut into layers."""
        return {param: cut for optimizer in self.optimizers for param, cut in cuts_of(optimizer).items()}

    def shards(self, params: Sequence[Tensor], cuts: Mapping[Tensor, ParameterLayers]) -> Shards:
        """The layers of parameters on one device, as this process holds them."""
        return Shards(params, cuts, self._held)

    @property
    def sharded(self) -> dict[str, Shard]:
        """{name: what this process holds} of the parameters that other processes hold parts of."""
        cuts = self.cuts()
        every = {
            name: shard_of(self._held, param, cuts[param])
            for param, name in self._parameter_names.items()
            if is_distributed(param) and param in cuts
        }
        return {name: held for name, held in every.items() if held.split}

    def grown(self) -> bool:
        """Whether the optimizers have got parameters since this was asked last."""
        before = self._count
        self._count = sum(len(group["params"]) for optimizer in self.optimizers for group in optimizer.param_groups)
        return self._count != before

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield from named_parameters(self.model)
        for number, optimizer in enumerate(self.optimizers):
            prefix = f"optimizer {number}, " if len(self.optimizers) > 1 else ""
            for index, group in enumerate(optimizer.param_groups):
                names = group.get("param_names")
                for place, param in enumerate(group["params"]):
                    yield names[place] if names else f"{prefix}group {index}, parameter {place}", param

    def _add(self, name: str, param: Tensor, cut: ParameterLayers | None) -> None:
        sizes = None if cut is None else cut.sizes
        excluded = cut is not None and cut.excluded
        if name in self._parameter_names.values():  # of two optimizers' parameters outside of the model
            name = f"{name} ({len(self._names)})"
        self._parameter_names[param] = name
        names = [name] if sizes is None else [f"{name}[{k}]" for k in range(len(sizes))]
        shapes = [param.shape] if sizes is None else [(size, *param.shape[1:]) for size in sizes]
        self._names[param] = tuple(names)
        for layer, shape in zip(names, shapes, strict=True):
            self._place(LayerInfo(layer, tuple(shape), excluded))

    def _place(self, layer: LayerInfo) -> None:
        """Put a layer where the one of its name is, else after all others."""
        if layer.name in self._places:
            self.layers[self._places[layer.name]] = layer
        else:
            self._places[layer.name] = len(self.layers)
            self.layers.append(layer)

    def names(self, param: Tensor) -> tuple[str, ...]:
        """The layers of a parameter."""
        if param not in self._names:
            self.refresh()
        return self._names[param]

    def of_optimizer(self, number: int) -> list[str]:
        """The layers that an optimizer trains."""
        return [name for param in cuts_of(self.optimizers[number]) for name in self.names(param) if param.requires_grad]

    def optimizer_of(self, layers: Iterable[str]) -> int:
        """The first optimizer that trains one of these layers; 0: none does."""
        wanted = set(layers)
        numbers = range(len(self.optimizers))
        return next((number for number in numbers if wanted.intersection(self.of_optimizer(number))), 0)

    def parameter_name(self, param: Tensor) -> str:
        """The name of a parameter, without the number of a segment."""
        if param not in self._parameter_names:
            self.refresh()
        return self._parameter_names[param]


class Detached(Layout):
    """Layers of a model that is not here: those of a monitor's copy."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        super().__init__(nn.Module(), ())
        self.layers[:] = layers

    def refresh(self) -> None:
        """There is nothing to look at."""


def has_weights(param: Tensor) -> bool:
    """Whether a parameter has been given its weights."""
    return not is_lazy(param) and param.device.type != "meta"


def cuts_of(optimizer: Optimizer) -> dict[Tensor, ParameterLayers]:
    """How an optimizer cuts its parameters into layers; one of torch's has one layer a tensor."""
    known = optimizer.layers if isinstance(optimizer, (Layerwise, Wrapped)) else {}
    whole = ParameterLayers("")
    return {param: known.get(param, whole) for group in optimizer.param_groups for param in group["params"]}


def by_device(params: Iterable[Tensor]) -> list[tuple[torch.device, list[Tensor]]]:
    """Parameters of each device, in their order."""
    found: dict[torch.device, list[Tensor]] = {}
    for param in params:
        found.setdefault(param.device, []).append(param)
    return list(found.items())
