"""The functions of the backend: a bucket of Python's, handed to the compiled one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.backends import reference
from layerpace.engine.backends.cpu.library import available, compiled
from layerpace.engine.backends.programs import COLUMN_NUMBERS, Program, fits, has_built_in_clip, program, rule_options
from layerpace.engine.backends.protocol import Work
from layerpace.engine.backends.watch import WriteCounter
from layerpace.engine.broadcast import by_layer
from layerpace.engine.numerics.columns import MEASURED, Constants
from layerpace.engine.numerics.precision import compute_dtype
from layerpace.engine.numerics.tensors import Tensors
from layerpace.layers.base import ParameterLayers
from layerpace.rules import (
    Coefficients,
    Identity,
    Layers,
    PercentDelta,
    RelativeL1,
    Rotation,
    Rule,
    TrustRatio,
)

_LOW_PRECISION = {"plain": 0, "master": 1, "stochastic": 2}
_HOST = torch.device("cpu")
_BUILT_IN = (Identity, TrustRatio, PercentDelta, RelativeL1, Rotation)


def fuses(rule: Rule) -> bool:
    """Whether the rule is built in, so that a layer's whole step is made while it is in the cache."""
    return type(rule) in _BUILT_IN and has_built_in_clip(rule)


def takes(param: Tensor, grad: Tensor, state: dict[str, Tensor], direction: Direction, layers: ParameterLayers) -> bool:
    """Whether the kernels can treat this parameter."""
    return param.is_cpu and available() and fits(param, grad, state, direction, layers)


class Kernel:
    """What is built once for a bucket, and the numbers that its next calls go by."""

    def __init__(self, work: Work, rule_memory: str) -> None:
        assert work.watch is not None
        self.program: Program = program(work.direction)
        self.rule_memory = rule_memory
        sizes = [list(cut.sizes or ()) for cut in work.layers]
        self.native: Any = compiled().Bucket(
            work.watch, list(self.program.moments), self.program.memory, rule_memory, sizes
        )
        narrow = work.moment_dtype != compute_dtype(work.params[0].dtype)
        halves = work.params[0].dtype in (torch.bfloat16, torch.float16)
        self.draws = narrow or (halves and work.low_precision == "stochastic")
        self.rows = work.rows
        self.seed = 0
        self.written = WriteCounter(work.params)

    def prepare(self, work: Work, constants: Constants) -> None:
        """Set the options of the next calls."""
        self.program = program(work.direction)
        velocity = work.velocity
        scale = 1.0 if work.grad_scale is None else float(work.grad_scale)
        job = compiled().Job(
            direction=self.program.number,
            gradient_factor=-scale if work.maximize else scale,
            l2=work.l2,
            update=0 if velocity is None else 2 if velocity.nesterov else 1,
            momentum=0.0 if velocity is None else velocity.momentum,
            keep=1.0 if velocity is None else 1.0 - velocity.dampening,
            low_precision=_LOW_PRECISION[work.low_precision],
            eps=constants.eps,
            floor=constants.floor,
        )
        self.native.set_job(job)

    def request(self, work: Work, columns: Sequence[str], vectors: dict[str, Tensor | None], **more: Any) -> Any:
        """A request of the compiled module, which looks at the vectors before it uses their memory."""
        return compiled().Request(
            options=self.program.options,
            columns=[COLUMN_NUMBERS[name] for name in columns],
            seed=self.seed,
            threads=torch.get_num_threads(),
            **vectors,
            **more,
        )

    def draw(self) -> None:
        """New random numbers, from torch's default generator, so that ``torch.manual_seed`` repeats them."""
        if self.draws:
            self.seed = int(torch.empty((), dtype=torch.int64, device=_HOST).random_())


def _kernel(work: Work, rule_memory: str = "") -> Kernel | None:
    """The kernel of a bucket, made at its first use; None: this bucket needs the reference."""
    kernel: Kernel | None = work.kernel
    if kernel is None or (rule_memory and kernel.rule_memory != rule_memory):
        try:
            kernel = work.kernel = Kernel(work, rule_memory)
        except ValueError:
            return None
    return kernel


def _for_reference(work: Work) -> Work:
    if not work.grads and work.watch is not None:
        work.grads = [torch.view_as_real(g) if g.is_complex() else g for g in work.watch.grads()]
    return work


def _vector(x: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor | None:
    return None if x is None else x.to(dtype).contiguous()


def _time(work: Work) -> tuple[float, Tensor | None]:
    if isinstance(work.t, Tensors):
        return 0.0, by_layer(work.t, work.layers, _HOST)
    return work.t, None


def _room_to_measure(work: Work, rows: int) -> Tensor | None:
    work.measured = torch.empty(rows, len(MEASURED), dtype=torch.float64, device=_HOST) if work.measure else None
    return work.measured


def gradient_sums(work: Work, columns: tuple[str, ...]) -> Tensor:
    kernel = _kernel(work)
    if kernel is None:
        return reference.gradient_sums(_for_reference(work), columns)
    kernel.prepare(work, Constants())
    table = torch.zeros(kernel.rows, len(columns), dtype=torch.float64, device=_HOST)
    kernel.native.gradient_sums(kernel.request(work, columns, {"table_LC": table}))
    return table


def accumulate(work: Work, columns: tuple[str, ...], constants: Constants) -> Tensor:
    kernel = _kernel(work)
    if kernel is None:
        return reference.accumulate(_for_reference(work), columns, constants)
    kernel.prepare(work, constants)
    kernel.draw()
    t, t_L = _time(work)
    table = torch.zeros(kernel.rows, len(columns), dtype=torch.float64, device=_HOST)
    vectors = {"table_LC": table, "t_L": t_L, "ok_L": _vector(work.ok_L, torch.bool)}
    kernel.native.accumulate(kernel.request(work, columns, vectors, t=t, measure=work.measure))
    return table


def apply(work: Work, c_L: Tensor | None, b_L: Tensor) -> None:
    if work.update is not None or work.kernel is None:  # the reference has accumulated
        reference.apply(work, c_L, b_L)
        return
    kernel: Kernel = work.kernel
    vectors = {
        "c_L": _vector(c_L),
        "b_L": _vector(b_L),
        "lr_L": _vector(work.lr_L),
        "ok_L": _vector(work.ok_L, torch.bool),
        "measured_LM": _room_to_measure(work, kernel.rows),
    }
    kernel.native.apply(kernel.request(work, (), vectors, measure=work.measure))
    kernel.written.note()


def step(
    work: Work,
    layers: Layers,
    excluded_L: Tensor | None,
    columns: tuple[str, ...],
    constants: Constants,
) -> tuple[Tensor, Coefficients] | None:
    rule = work.rule
    kernel = _kernel(work, *rule.state_names)
    if kernel is None:
        return None
    kernel.prepare(work, constants)
    kernel.native.set_rule(compiled().Rule(**rule_options(rule, layers.min_rms)))
    kernel.draw()
    t, t_L = _time(work)
    rows = kernel.rows
    table = torch.empty(rows, len(columns), dtype=torch.float64, device=_HOST)
    c_L, b_L, ratio_L = torch.zeros(3, rows, dtype=torch.float64, device=_HOST).unbind()
    vectors = {
        "t_L": t_L,
        "lr_L": _vector(layers.lr),
        "weight_decay_L": _vector(layers.weight_decay),
        "ok_L": _vector(work.ok_L, torch.bool),
        "undecayed_L": _vector(layers.undecayed, torch.bool),
        "excluded_L": _vector(excluded_L, torch.bool),
        "c_L": c_L,
        "b_L": b_L,
        "ratio_L": ratio_L,
        "table_LC": table,
        "measured_LM": _room_to_measure(work, rows),
    }
    kernel.written.note()  # while a check of the tensors has them in the cache
    kernel.native.step(
        kernel.request(work, columns, vectors, t=t, lr_outside=work.lr_L is not None, measure=work.measure)
    )
    return table, Coefficients(c=c_L, b=b_L, ratio=ratio_L)
