"""Which directions, rules and tensors kernels take, and the numbers that tell them apart; for both kinds of kernels.

A direction or a rule is known by its exact class: a subclass may compute something else, and runs on `reference`.

`DIRECTIONS`, `RULES` and `CLIPS` are the one table of numbers: a place in them is the number that native/src/job.hpp,
native/src/rule.hpp and backends/triton/kernels use, and tests/house/test_register.py compares all of them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from layerpace import directions, rules
from layerpace.directions import Direction
from layerpace.engine.numerics.columns import COLUMNS
from layerpace.engine.numerics.precision import compute_dtype
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Rule

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128)
# Those of the package, which kernels know; a rule that reads one that somebody has registered runs on `reference`.
COLUMN_NUMBERS = {name: number for number, name in enumerate(COLUMNS)}


# What a kernel can do; the variants of one class are directions of their own there.
DIRECTIONS = (
    "SGD",
    "HEAVY_BALL",
    "NESTEROV",
    "EMA_MOMENTUM",
    "ADAGRAD",
    "ADADELTA",
    "RMSPROP",
    "RMSPROP_CENTERED",
    "RMSPROP_MOMENTUM",
    "RMSPROP_CENTERED_MOMENTUM",
    "ADAM",
    "AMSGRAD",
    "ADAMAX",
    "NADAM",
    "RADAM",
)
RULES: tuple[type[Rule], ...] = (
    rules.Identity,
    rules.TrustRatio,
    rules.PercentDelta,
    rules.RelativeL1,
    rules.Rotation,
    rules.LimitedNorm,
)
CLIPS: tuple[type[rules.ClipRule] | None, ...] = (None, rules.Bounds, rules.LARCClip)
NORMS = ("total", "sum", "direction")


@dataclass(frozen=True)
class Program:
    """A direction as the kernels know it.

    Attributes:
        name: one of `DIRECTIONS`.
        options: in the order of ``prepare`` there.
        moments: names of its state tensors, in the kernels' order.
        memory: name of its one number a layer, or "".
    """

    name: str
    options: tuple[float, ...]
    moments: tuple[str, ...]
    memory: str = ""

    @property
    def number(self) -> int:
        """Its place among `DIRECTIONS`."""
        return DIRECTIONS.index(self.name)


def _heavy_ball(d: Any) -> Program:
    if not d.state_names():
        return Program("SGD", (), ())
    return Program("HEAVY_BALL", (d.momentum, d.dampening), d.state_names())


def _rmsprop(d: Any) -> Program:
    name = "RMSPROP" + "_CENTERED" * bool(d.centered) + "_MOMENTUM" * (d.momentum > 0)
    return Program(name, (d.alpha, d.eps, d.momentum, d.eps_inside_sqrt), d.state_names())


def _adam(d: Any) -> Program:
    options = (*d.betas, d.eps, d.bias_correction is True, d.grad_averaging, d.eps_inside_sqrt)
    return Program("AMSGRAD" if d.amsgrad else "ADAM", options, d.state_names())


_PROGRAMS: dict[type[Direction], Callable[[Any], Program]] = {
    directions.SGD: lambda d: Program("SGD", (), ()),
    directions.HeavyBall: _heavy_ball,
    directions.Nesterov: lambda d: Program("NESTEROV", (d.momentum,), d.state_names()),
    directions.EMAMomentum: lambda d: Program("EMA_MOMENTUM", (d.beta,), d.state_names()),
    directions.AdaGrad: lambda d: Program("ADAGRAD", (d.lr_decay, d.eps, d.eps_inside_sqrt), d.state_names()),
    directions.AdaDelta: lambda d: Program("ADADELTA", (d.rho, d.eps), d.state_names()),
    directions.RMSProp: _rmsprop,
    directions.Adam: _adam,
    directions.AMSGrad: _adam,
    directions.AdaMax: lambda d: Program("ADAMAX", (*d.betas, d.eps), d.state_names()),
    directions.NAdam: lambda d: Program(
        "NADAM", (*d.betas, d.eps, d.momentum_decay), ("exp_avg", "exp_avg_sq"), memory="mu_product"
    ),
    directions.RAdam: lambda d: Program("RADAM", (*d.betas, d.eps, d.threshold), d.state_names()),
}


@lru_cache(maxsize=256)
def program(direction: Direction) -> Program:
    """The direction as the kernels know it; KeyError for one that they do not know."""
    return _PROGRAMS[type(direction)](direction)


def rule_options(rule: Rule, min_rms: float) -> dict[str, Any]:
    """The rule as the kernels know it: arguments of the compiled ``Rule``; KeyError for one that they do not know."""
    options: dict[str, Any] = {"id": _RULES[type(rule)], "min_rms": min_rms}
    if isinstance(rule, rules.TrustRatio):
        clip = rules.clip_rule(rule.clip)
        options |= {
            "coefficient": rule.coefficient,
            "eps": rule.eps,
            "norm": NORMS.index(rule.norm),
            "clip": _CLIPS[None if clip is None else type(clip)],
            "always_adapt": rule.always_adapt,
        }
        if isinstance(clip, rules.Bounds):
            options |= {"lower": clip.lower, "upper": clip.upper}
        if rule.zero_ratio is not None:
            options |= {"has_zero_ratio": True, "zero_ratio": rule.zero_ratio}
    if isinstance(rule, rules.Rotation):
        options["parallel"] = rule.PARALLEL
    if isinstance(rule, rules.LimitedNorm):
        options["growth"] = rule.growth
    return options


_RULES = {kind: number for number, kind in enumerate(RULES)}
_CLIPS = {kind: number for number, kind in enumerate(CLIPS)}


def known_rule(rule: Rule) -> bool:
    """Whether kernels may know the rule."""
    return type(rule) in _RULES


def has_built_in_clip(rule: Rule) -> bool:
    """Whether a rule that is a trust ratio has a clip that the kernels know, or none."""
    if type(rule) is not rules.TrustRatio:
        return True
    clip = rules.clip_rule(rule.clip)
    return clip is None or type(clip) in _CLIPS


def fits(param: Tensor, grad: Tensor, state: dict[str, Tensor], direction: Direction, layers: ParameterLayers) -> bool:
    """Whether kernels can treat this parameter: dense tensors that lie in memory in the same order."""
    if type(direction) not in _PROGRAMS:
        return False
    if param.dtype not in DTYPES or grad.dtype != param.dtype:
        return False
    moments = [state[name] for name in ("velocity", *program(direction).moments) if name in state]
    kept = _kept_dtypes(param.dtype)
    if any(moment.dtype not in kept or moment.dtype != moments[0].dtype for moment in moments):
        return False
    tensors = [grad, *moments]
    if "master" in state:
        tensors.append(state["master"])
    if param.is_contiguous():
        n = param.numel()
        return all(x.is_contiguous() and x.numel() == n for x in tensors)
    order = memory_order(param)
    if order is None or (layers.sizes is not None and order[0] != 0):
        return False
    return all(x.shape == param.shape and memory_order(x) == order for x in tensors)


@lru_cache(maxsize=16)
def _kept_dtypes(dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """What moments may be kept in."""
    working = compute_dtype(dtype)
    return working, torch.bfloat16 if working == torch.float32 else working


def memory_order(x: Tensor) -> Sequence[int] | None:
    """The dimensions of a dense tensor from the outermost in memory to the innermost; None: it is not dense."""
    order = sorted((k for k in range(x.ndim) if x.shape[k] != 1), key=x.stride, reverse=True)
    expected = 1
    for k in reversed(order):
        if x.stride(k) != expected:
            return None
        expected *= x.shape[k]
    return order
