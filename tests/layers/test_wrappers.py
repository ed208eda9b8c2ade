"""Wrappers of modules are told by their type: names are those of the model inside, whatever it calls its own parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import layerpace as lp
from layerpace.layers.wrappers import FSDP1, is_a, named_parameters, plain_names

WORDS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "0")


def model() -> nn.Module:
    """Has parts of its own with all the names that wrappers use, at the top and deeper."""
    made = nn.Module()
    for word in WORDS:
        made.add_module(word, nn.ModuleDict({"module": nn.Linear(2, 2), "net": nn.Linear(2, 1)}))
    made.module.register_parameter("scale", nn.Parameter(torch.ones(2)))  # type: ignore[union-attr]
    return made


def _bare(kind: type[nn.Module], word: str) -> Callable[[nn.Module], nn.Module]:
    """A wrapper as its type and its attribute say, without the processes that it needs to work."""

    def wrap(inner: nn.Module) -> nn.Module:
        outer: nn.Module = kind.__new__(kind)
        nn.Module.__init__(outer)
        outer._modules[word] = inner
        outer.__dict__["training_state"] = None  # FSDP1 asks for it
        return outer

    return wrap


class Subclassed(nn.DataParallel):  # type: ignore[type-arg]
    pass


AROUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda m: m,
    "DataParallel": nn.DataParallel,
    "a subclass": Subclassed,
    "DDP": _bare(DistributedDataParallel, "module"),
    "FSDP1": _bare(FullyShardedDataParallel, "_fsdp_wrapped_module"),
    "torch.compile": lambda m: torch.compile(m),  # type: ignore[return-value]
    "checkpoints": checkpoint_wrapper,
    "average": AveragedModel,
    "several": lambda m: torch.compile(nn.DataParallel(checkpoint_wrapper(m))),  # type: ignore[return-value]
}


def test_names_are_those_of_the_model_inside() -> None:
    inner = model()
    parameters = [name for name, _ in inner.named_parameters()]
    modules = [name for name, _ in inner.named_modules()]
    for kind, wrap in AROUND.items():
        outer = wrap(inner)
        assert [name for name, _ in named_parameters(outer)] == parameters, kind
        plain = plain_names(outer)
        assert list(dict.fromkeys(plain(name) for name, _ in outer.named_modules())) == modules, kind


def test_wrappers_within_a_model() -> None:
    inner = model()
    expected = [name for name, _ in inner.named_parameters()]
    inner.module.net = checkpoint_wrapper(inner.module.net)  # type: ignore[union-attr, arg-type]
    inner.module.module = torch.compile(inner.module.module)  # type: ignore[union-attr]
    assert [name for name, _ in named_parameters(nn.DataParallel(inner))] == expected


def test_fabrics_wrapper() -> None:
    wrappers = pytest.importorskip("lightning.fabric.wrappers")
    inner = model()
    outer = wrappers._FabricModule(nn.DataParallel(inner), strategy=None, original_module=inner)
    assert [n for n, _ in named_parameters(outer)] == [n for n, _ in inner.named_parameters()]


def test_a_class_that_is_named_like_a_wrapper_is_none() -> None:
    kind = type(FSDP1[1], (nn.Module,), {})
    assert not is_a(kind(), FSDP1)
    assert is_a(_bare(FullyShardedDataParallel, "_fsdp_wrapped_module")(model()), FSDP1)


def test_a_monitor_and_an_optimizer_have_the_same_names() -> None:
    inner = model()
    optimizer = lp.LAMB(inner.named_parameters())
    monitor = lp.Monitor(nn.DataParallel(inner), optimizer, every=1, out=None)
    for param in inner.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert list(monitor.latest()) == [name for name, _ in inner.named_parameters()]
