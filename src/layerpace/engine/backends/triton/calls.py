"""The functions of the backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from layerpace.engine.backends.programs import program
from layerpace.engine.backends.protocol import Gate, RowOptions, Work
from layerpace.engine.backends.triton.bucket import Bucket, Shared
from layerpace.engine.backends.triton.kernels import tables as at
from layerpace.engine.backends.triton.kernels.rules import LIMITED_NORM, ROTATION
from layerpace.engine.backends.triton.launches import (
    NO_CHOICES,
    look_at_gradients,
    prepare_step,
    rule_choices,
    run_tasks,
)
from layerpace.engine.broadcast import by_layer
from layerpace.engine.numerics.columns import Constants
from layerpace.engine.numerics.tensors import Tensors
from layerpace.rules import Coefficients, Rule

_captured: list[object] = []  # what CUDA graphs use lives as long as the process, since nothing says how long they do


def _bucket(work: Work, rule: Rule | None = None, options: RowOptions | None = None) -> Bucket:
    """The bucket on its device, made at its first use."""
    bucket: Bucket | None = work.kernel
    if bucket is None or (rule is not None and not bucket.has_rule):
        bucket = work.kernel = Bucket(work, rule, options)
    bucket.program = program(work.direction)
    return bucket


@contextmanager
def _on(work: Work) -> Iterator[None]:
    """On the device of a bucket, in the order of its current stream."""
    if work.device.type != "cuda":
        yield
        return
    with torch.cuda.device(work.device):
        yield
        bucket: Bucket | None = work.kernel
        if bucket is None:
            return
        if torch.cuda.is_current_stream_capturing():
            _captured.append(bucket.held_by_graph())
        else:
            bucket.used_on(torch.cuda.current_stream())


def gradient_sums(work: Work, columns: tuple[str, ...]) -> Tensor:
    with _on(work):
        bucket = _bucket(work)
        bucket.send(work)
        return look_at_gradients(bucket, columns, Gate(scale=work.grad_scale))[0].table


def accumulate(work: Work, columns: tuple[str, ...], constants: Constants) -> Tensor:
    with _on(work):
        bucket = _bucket(work)
        bucket.send(work, constants)
        bucket.room_for(columns, work.measure)
        t_L = by_layer(work.t, work.layers, work.device) if isinstance(work.t, Tensors) else None
        gate = Gate(scale=work.grad_scale, ok_L=work.ok_L)
        prepare_step(bucket, work, gate, 0, False, t_L)
        gated = work.ok_L is not None
        run_tasks(bucket, work, columns, NO_CHOICES, first=True, second=False, ticket=0, has_c=True, gated=gated)
        return bucket.table


def apply(work: Work, c_L: Tensor | None, b_L: Tensor) -> None:
    with _on(work):
        bucket: Bucket = work.kernel
        lr_L = None if work.lr_L is None else work.lr_L.contiguous()
        run_tasks(
            bucket, work, (), NO_CHOICES, first=False, second=True, ticket=1, has_c=c_L is not None,
            gated=work.ok_L is not None, c_L=None if c_L is None else c_L.contiguous(), b_L=b_L.contiguous(), lr_L=lr_L,
        )  # fmt: skip
        work.measured = bucket.measured if work.measure else None
        bucket.written.note()


def look_ahead(works: Sequence[Work], options: Sequence[RowOptions], gate: Gate) -> None:
    """Look at the gradients of all buckets of a device, as far as the gate needs it before a step."""
    if not gate.looks:
        return
    columns = ("uu",) * (gate.max_norm is not None) + ("nonfinite",) * gate.skips
    shared: Shared | None = None
    for work, own in zip(works, options, strict=True):
        with _on(work):
            rule = work.rule
            bucket = _bucket(work, rule, own)
            bucket.send(work, rule.constants(own.min_rms), own, rule_choices(rule)[0], gate.max_norm)
            bucket.looked = look_at_gradients(bucket, columns, gate, len(own.rates), shared)
            shared = bucket.looked[1]


def step(
    work: Work, options: RowOptions, columns: tuple[str, ...], constants: Constants, gate: Gate
) -> tuple[Tensor, Coefficients, Tensor]:
    with _on(work):
        rule = work.rule
        bucket = _bucket(work, rule, options)
        numbers, choices = rule_choices(rule)
        if bucket.looked is None:  # else they have been sent
            bucket.send(work, constants, options, numbers, gate.max_norm)
        bucket.room_for(columns, work.measure)
        prepare_step(bucket, work, gate, len(options.rates), not columns, None)
        has_c = any(decay != 0 for decay in options.decays) or choices["RULE"] in (ROTATION.value, LIMITED_NORM.value)
        run_tasks(bucket, work, columns, choices, first=True, second=True, ticket=0, has_c=has_c, gated=gate.holds_back)
        work.measured = bucket.measured if work.measure else None
        bucket.written.note()
        bucket.looked = None
        coefficients = Coefficients(c=bucket.c_L, b=bucket.b_L, ratio=bucket.ratio_L)
        return bucket.table, coefficients, bucket.numbers[:, at.TAKES.value]
