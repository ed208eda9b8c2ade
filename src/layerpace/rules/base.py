"""Rules: the sums over a layer -> how far it moves.

A rule turns each row of the table into two numbers, c and b; the layer's displacement is d = c*w + b*u and then
w <- w - d. A rule is a pure function of sums: it never sees a weight, so it is the same on one device and on a
sharded model. It returns c, not 1 - c: a decay of lr*ratio*lambda near 1e-8 is gone from 1 - c in float32.

Every rule works on all layers at once: its inputs and results are float64 vectors [L].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from layerpace.engine.common.parts import Part
from layerpace.engine.numerics.columns import Constants, Table


@dataclass(frozen=True)
class Layers:
    """What a rule knows of L layers beside their sums; float64 [L] each.

    Attributes:
        n: number of entries.
        lr: learning rate of this step, schedule and layer multiplier included.
        weight_decay: decoupled weight decay lambda, per unit of lr.
        min_rms: the RMS below which a layer counts as not yet grown (one number).
        decays: whether any weight decay is not zero, known without reading the device.
        undecayed: bool [L], layers without weight decay of either kind, coupled or decoupled.
    """

    n: Tensor
    lr: Tensor
    weight_decay: Tensor
    min_rms: float
    decays: bool
    undecayed: Tensor

    def phi(self, ww: Tensor) -> Tensor:
        """max(||w||, min_rms*sqrt(n)): the norm that a step is measured by, so that a zero layer can start."""
        return torch.maximum(ww.sqrt(), self.min_rms * self.n.sqrt())


RuleState: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Coefficients:
    """d = c*w + b*u for L layers, float64 [L]; ``c`` None stands for zeros.

    ``ratio`` is the factor that the rule puts on lr; ``memory`` what the rule remembers from now on, where that has
    changed.
    """

    c: Tensor | None
    b: Tensor
    ratio: Tensor
    memory: RuleState = field(default_factory=dict)


@dataclass(frozen=True)
class Rule(Part):
    """c, b <- R(row, lr, ...).

    Subclasses say which ``columns`` they read, whether they fold decoupled weight decay into (c, b), and whether
    tensors with at most one dimension are left out of them by default. A rule with memory returns it, a number
    for each layer, from ``init``, and what has changed of it with its coefficients; it is saved with the optimizer's
    state under the names of ``state_names``. A layer that is held back, or excluded, keeps the memory that it had.
    """

    names: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False
    excludes_vectors: ClassVar[bool] = False
    keeps_norm: ClassVar[bool] = False  # or all but keeps it: a layer that starts at zero stays small

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of its memory."""
        return ()

    @property
    def nonnegative(self) -> tuple[str, ...]:
        """Those of them that are never below zero, nor nan: a state that says otherwise is not loaded."""
        return ()

    def columns(self) -> tuple[str, ...]:
        """The columns of `layerpace.columns` that the rule reads."""
        return ()

    def constants(self, min_rms: float) -> Constants:
        """The constants of those columns."""
        return Constants(floor=min_rms)

    def init(self, row: Table, layers: Layers) -> RuleState:
        """The memory of layers that take their first step.

        Args:
            row: the sums, float64 [L] each.
            layers: what else is known of the L layers.

        Returns:
            float64 [L] for each of ``state_names``.
        """
        return {}

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        """The coefficients of L layers; a pure function.

        Args:
            row: the sums that ``columns`` asks for, float64 [L] each.
            layers: what else is known of the L layers.
            state: the memory, float64 [L] for each of ``state_names``.

        Returns:
            c and b of d = c*w + b*u, float64 [L], and the memory that has changed.
        """
        raise NotImplementedError
