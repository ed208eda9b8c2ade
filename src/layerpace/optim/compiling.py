"""Keeping an optimizer out of what `torch.compile` makes of the code around it.

A step arranges buckets, asks what has changed and hands addresses to compiled kernels: nothing of that is a graph, and
what a compiler took of it for constant (the number of the step, a rate) changes from call to call. So to a compiler a
step is one call of Python's, its hooks included, as are making an optimizer, saving and loading it. The kernels are
fused already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo
from torch.optim.optimizer import Optimizer

P = ParamSpec("P")
T = TypeVar("T")


@_disable_dynamo  # not torch.compiler.disable, which imports the compiler at once
def _run(function: Callable[..., T], args: Any, kwargs: Any) -> T:
    return function(*args, **kwargs)


def opaque(function: Callable[P, T]) -> Callable[P, T]:
    """The function as one call that a compiler does not look into; costs next to nothing where there is none."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return _run(function, args, kwargs) if torch.compiler.is_compiling() else function(*args, **kwargs)

    # The compiler keeps what it knows by code, and takes a second function of the same code for a change of the first.
    function_of_its_own: Any = call
    function_of_its_own.__code__ = function_of_its_own.__code__.replace(co_name=function.__name__)
    function_of_its_own.opaque = True
    return call


class OpaqueOptimizer(Optimizer):
    """An optimizer whose ``step`` is `opaque`, with the hooks that torch puts around it."""

    def _patch_step_function(self) -> None:
        super()._patch_step_function()
        kind: Any = type(self)
        if not getattr(kind.step, "opaque", False):
            kind.step = opaque(kind.step)
