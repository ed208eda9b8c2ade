"""Modules that wrap a model and put a word of theirs before the names of its parameters.

They are recognised by type, not by their words: a model may well have a submodule of its own called ``module``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"
FSDP2 = "torch.distributed.fsdp", "FSDPModule"  # no wrapper: a class that the module is given

# (module, class) -> the attribute that holds what is wrapped. A library that nobody has imported has wrapped nothing.
WRAPPERS = {
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch.optim.swa_utils", "AveragedModel"): "module",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper"): "_checkpoint_wrapped_module",
    FSDP1: "_fsdp_wrapped_module",
    ("lightning.fabric.wrappers", "_FabricModule"): "_forward_module",
    ("lightning_fabric.wrappers", "_FabricModule"): "_forward_module",
    ("deepspeed.runtime.engine", "DeepSpeedEngine"): "module",
    ("apex.parallel.distributed", "DistributedDataParallel"): "module",
}


def is_a(module: nn.Module, kind: tuple[str, str]) -> bool:
    """Whether it is an instance of the class of that module and name, which is not imported for that."""
    found = _imported(kind)
    return found is not None and isinstance(module, found)


def _imported(kind: tuple[str, str]) -> type | None:
    found: Any = getattr(sys.modules.get(kind[0]), kind[1], None)
    return found if isinstance(found, type) else None


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """Names of parameters and modules of ``model`` -> those without the words of wrappers, around it or within."""
    words = _words()
    plain: dict[str, str] = {}
    words_of: dict[str, str | None] = {}
    for name, module in model.named_modules():
        words_of[name] = _word(module, words)
        before, _, last = name.rpartition(".")
        outer = plain.get(before, before)
        through = bool(name) and words_of.get(before) == last
        plain[name] = outer if through else f"{outer}.{last}" if outer else last

    def of(name: str) -> str:
        if name in plain:
            return plain[name]
        place, _, last = name.rpartition(".")
        place = plain.get(place, place)  # a module may name its parameters as it likes
        return f"{place}.{last}" if place else last

    return of


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of all wrappers."""
    words = _words()
    while (word := _word(module, words)) is not None and module._modules.get(word) is not None:
        module = module._modules[word]  # type: ignore[assignment]
    return module


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters as the model inside of all wrappers names them; a wrapper's own, as of FSDP1, come first."""
    words = _words()
    while (word := _word(model, words)) is not None and model._modules.get(word) is not None:
        yield from ((name, param) for name, param in model._parameters.items() if param is not None)
        model = model._modules[word]  # type: ignore[assignment]
    name_of = plain_names(model)  # not of the wrapper's names, from which some strip their word wherever it stands
    for name, param in model.named_parameters():
        yield name_of(name), param


def _words() -> dict[type, str]:
    return {kind: word for of, word in WRAPPERS.items() if (kind := _imported(of)) is not None}


def _word(module: nn.Module, words: dict[type, str]) -> str | None:
    return next((word for kind, word in words.items() if isinstance(module, kind)), None)
