"""What a backend must do: two functions, and a look at the gradients before them.

A step cuts the parameters into `Work`: buckets that share a device, a dtype and every option, so that one kernel
serves each. For each bucket, `accumulate` advances the direction and returns the sums of the table; when the rule
has turned the table into coefficients, `apply` moves the weights. Between the two, a backend may keep what it likes
on the bucket. `reference` defines the meaning; the others must agree with it. A `FusedBackend` can do all of a step
in one call, for rules that it has built in.

Buckets live as long as the plan of a step (`layerpace.engine.plan`), mostly for many steps; options, gradients and the
number of the step are written into them before each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.numerics.columns import Constants
from layerpace.engine.numerics.tensors import Scalar, Tensors
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Coefficients, Layers, Rule


@dataclass(frozen=True)
class Velocity:
    """Momentum after the rule: v <- mu*v + (1 - damp)*d; w <- w - v, or w - (mu*v + d) with Nesterov.

    With ``lr_inside`` off, d is taken at lr = 1 and lr multiplies what is subtracted, as torch.optim.SGD has it.
    """

    momentum: float
    dampening: float
    nesterov: bool
    lr_inside: bool = True


class Watch(Protocol):
    """The tensors of a bucket, described once: of the compiled module, or `watch.PythonWatch`."""

    def check(self, threads: int = 1) -> bool:
        """Look at the gradients anew; whether all tensors are where they were and what they were."""
        ...

    def grads(self) -> list[Tensor]:
        """The gradients that ``check`` found."""
        ...

    def release(self) -> None:
        """Let go of those gradients."""
        ...

    def count(self) -> float:
        """Add one to all step counts and return them; -1.0, and nothing done, unless they are equal on the host."""
        ...


@dataclass
class Work:
    """One bucket: parameters that share a device, a dtype, and all options.

    Attributes:
        backend: where the bucket runs.
        params: the parameters as real tensors; a backend writes the new weights there.
        grads: their gradients; never written. Empty between steps.
        grad_is_scratch: the gradients belong to the step, so that their memory may be reused.
        state: the optimizer's state of each parameter; moments and the like, updated in place.
        layers: how each parameter is cut into layers; the rows of the table follow this order.
        direction, rule, l2, maximize, velocity, low_precision: options; ``l2`` is coupled weight decay.
        moment_dtype: what moments and the velocity are kept in; narrower than the arithmetic, they are rounded
            stochastically when they are written.
        t: number of this step (1, 2, ...): a number, or tensors that broadcast over the parameters.
        grad_scale: the factor on every gradient, a 0-d tensor; None: one.
        ok_L: bool [rows]: a layer that is not ok takes no step, its weights and state stay; None: all are.
        lr_L: float64 [rows]: the learning rates, where they stand outside of the velocity.
        update: filled by ``accumulate`` for ``apply``: the working weights w and the direction u.
        measure: whether the step adds up what monitors read.
        measured: those sums, float64 [rows, `columns.MEASURED`]: ``accumulate`` fills in <g, g>, ``apply`` the rest.
            The weights are those that the next step computes with: a master copy where there is one. nan: a layer
            that was held back.
        uniform: the step counts are single numbers on the host, all equal.
        watch: what describes the tensors; None: they are not plain, or nothing here can. Such a bucket goes to the
            reference.
        kernel: what the backend has built for this bucket; it is dropped with the bucket.
    """

    backend: Backend
    params: list[Tensor]
    grads: list[Tensor]
    grad_is_scratch: bool
    state: list[dict[str, Tensor]]
    layers: list[ParameterLayers]
    direction: Direction
    rule: Rule
    l2: float
    maximize: bool
    velocity: Velocity | None
    low_precision: str
    moment_dtype: torch.dtype
    t: Scalar
    grad_scale: Tensor | None = None
    ok_L: Tensor | None = None
    lr_L: Tensor | None = None
    update: tuple[Tensors, Tensors] | None = field(default=None, repr=False)
    measure: bool = False
    measured: Tensor | None = field(default=None, repr=False)
    uniform: bool = False
    watch: Watch | None = field(default=None, repr=False)
    kernel: Any = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        return self.params[0].device

    @property
    def rows(self) -> int:
        """Number of layers."""
        return sum(layers.count for layers in self.layers)


class Backend(Protocol):
    """The two functions of a step, and the sums of the gradients that decide whether a layer takes it."""

    def gradient_sums(self, work: Work, columns: tuple[str, ...]) -> Tensor:
        """Sums over each layer's gradient, times ``grad_scale``, before weight decay: float64 [rows, columns]."""
        ...

    def accumulate(self, work: Work, columns: tuple[str, ...], constants: Constants) -> Tensor:
        """Advance the direction by one step and return its sums: float64 [rows, columns]."""
        ...

    def apply(self, work: Work, c_L: Tensor | None, b_L: Tensor) -> None:
        """Move the weights by d = c*w + b*u, through the velocity if there is one.

        Args:
            work: the bucket, after ``accumulate``.
            c_L, b_L: float64 [rows]; c None stands for zeros.
        """
        ...


@dataclass(frozen=True)
class RowOptions:
    """The options of the layers of a bucket, by kind: what `layerpace.rules.Layers` says of each, not yet on a device.

    Attributes:
        kinds, excluded: of each layer: its kind, and whether it has the identity in the place of the rule.
        rates, decays, undecayed: of each kind: learning rate (a tensor: on the bucket's device), decoupled weight
            decay, and whether it has no decay of either sort.
        min_rms: see `layerpace.rules.Layers`.
    """

    kinds: list[int]
    excluded: list[bool]
    rates: tuple[float | Tensor, ...]
    decays: tuple[float, ...]
    undecayed: tuple[bool, ...]
    min_rms: float


@dataclass(frozen=True)
class Gate:
    """What decides on a device how large gradients are, and which layers take a step.

    Attributes:
        scale: a 0-d tensor that gradients are to be multiplied by (divided by, if ``divides``); None: one.
        max_norm: scale all gradients of the device so that their joint norm is at most this; None: do not.
        found_inf: a tensor with one element: not zero: no layer steps. None: there is none.
        skips: layers with inf or nan in their gradient do not step.
        phantom: no layer steps if all learning rates and all gradients are zero.
        ok_L: bool [layers], the layers that step, known already; None: all, as far as the others let them.
    """

    scale: Tensor | None = None
    divides: bool = False
    max_norm: float | None = None
    found_inf: Tensor | None = None
    skips: bool = False
    phantom: bool = False
    ok_L: Tensor | None = None

    @property
    def holds_back(self) -> bool:
        """Whether there may be layers that do not step."""
        return self.found_inf is not None or self.skips or self.phantom or self.ok_L is not None

    @property
    def looks(self) -> bool:
        """Whether gradients must be looked at before the step."""
        return self.max_norm is not None or self.skips or self.phantom


class DeviceBackend(Backend, Protocol):
    """A backend whose kernels also work out rates and coefficients, count steps, and decide who takes one.

    Nothing else needs to be launched for a step of such buckets, if nothing is sharded.
    """

    def knows(self, rule: Rule) -> bool:
        """Whether the rule is built in, so that ``step`` can be called."""
        ...

    def look_ahead(self, works: Sequence[Work], options: Sequence[RowOptions], gate: Gate) -> None:
        """Before the ``step`` of the buckets of a device: look at their gradients, if the gate ``looks``."""
        ...

    def step(
        self, work: Work, options: RowOptions, columns: tuple[str, ...], constants: Constants, gate: Gate
    ) -> tuple[Tensor, Coefficients, Tensor]:
        """The whole step of a bucket; step counts that are on the device are counted there.

        Returns:
            What ``accumulate`` returns; the coefficients, [rows] each; and float64 [rows], not zero where the layer
            has stepped. The next step overwrites all of them.
        """
        ...


class FusedBackend(Backend, Protocol):
    """A backend that also does the whole step of a bucket in one call."""

    def fuses(self, rule: Rule) -> bool:
        """Whether the rule is built in."""
        ...

    def step(
        self,
        work: Work,
        layers: Layers,
        excluded_L: Tensor | None,
        columns: tuple[str, ...],
        constants: Constants,
    ) -> tuple[Tensor, Coefficients] | None:
        """``accumulate``, the rule and ``apply``; the rule's memory is read and written in the state.

        Args:
            work: the bucket, before ``accumulate``; its rule is one that ``fuses`` takes.
            layers: what the rule knows of the bucket's layers, the direction's factor on lr included.
            excluded_L: bool [rows]: layers with the identity without decay in the place of the rule; None: none.
            columns, constants: of the rule.

        Returns:
            What ``accumulate`` returns, and the coefficients, [rows] each; None, with nothing done: this bucket
            needs the calls one by one.
        """
        ...
