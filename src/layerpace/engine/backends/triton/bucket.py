"""What is built once for a bucket: its tables, and room for what a step works out."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from layerpace.engine.backends.programs import COLUMN_NUMBERS, Program, program
from layerpace.engine.backends.protocol import RowOptions, Work
from layerpace.engine.backends.triton.kernels import tables as at
from layerpace.engine.backends.triton.kernels.chunks import STOCHASTIC
from layerpace.engine.backends.triton.tables import ALIGNMENT, Arrangement, Sent
from layerpace.engine.backends.watch import WriteCounter
from layerpace.engine.numerics.columns import MEASURED, Constants
from layerpace.engine.numerics.precision import compute_dtype
from layerpace.engine.numerics.tensors import Tensors
from layerpace.rules import Rule

_TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
NO_CONSTANTS = Constants()


class Bucket:
    """A bucket on its device.

    Attributes:
        arrangement: the tables that stay what they are.
        lr_L, c_L, b_L, ratio_L, table, measured: float64 [layers, ...], of the last step; see `kernels.passes`.
        kinds, gradients: what is sent before a step.
        aligned: whether the gradients begin where wide loads can.
        looked: what a look at the gradients has found before this step.
        written: tells autograd.
    """

    def __init__(self, work: Work, rule: Rule | None, options: RowOptions | None) -> None:
        self.program: Program = program(work.direction)
        self.has_rule = rule is not None
        self.arrangement = Arrangement(work, self.program, rule, options)
        self.device, layers = work.device, len(self.arrangement)
        param, working = work.params[0].dtype, compute_dtype(work.params[0].dtype)
        names = [*self.program.moments, *["velocity"] * (work.velocity is not None)]
        kept = work.state[0][names[0]].dtype if names else working
        self.stored, self.compute, self.kept = _TYPES[param], _TYPES[working], _TYPES[kept]
        self.mode = ("plain", "master", "stochastic").index(work.low_precision) if param != working else 0
        self.draws = kept != working or self.mode == STOCHASTIC.value
        self.numbers = self.room(layers, at.NUMBERS.value)
        self.scalars = self.room(at.SCALARS.value)
        counters = at.TICKETS.value + layers * at.PER_LAYER.value
        self.counters = torch.zeros(counters, dtype=torch.int32, device=self.device)
        self.lr_L, self.c_L, self.b_L, self.ratio_L = (self.room(layers) for _ in range(4))
        self.partial = self.room(self.arrangement.chunks, len(COLUMN_NUMBERS))
        self.measured_partial = self.room(0)
        self.table = self.room(layers, 0)
        self.measured = self.room(layers, 0)
        self.gradients = Sent(len(work.params), self.device)
        kinds = 0 if options is None else len(options.rates)
        self.kinds = Sent(at.HEADER.value + kinds * at.KIND_WIDTH.value, self.device)
        self._said: object = None
        self.rates: list[Tensor] = []  # those that lie on this device, for as long as kernels read them
        self.aligned = False
        self._noted: set[tuple[int, ...]] = set()
        self.written = WriteCounter(work.params)
        self.looks: dict[tuple[str, ...], Look] = {}
        self.looked: tuple[Look, Shared] | None = None  # before this step

    def room(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def room_for(self, columns: Sequence[str], measure: bool) -> None:
        """Make room for the sums of a step."""
        layers, chunks = len(self.arrangement), self.arrangement.chunks
        if self.table.shape[1] != len(columns):
            self.table = self.room(layers, len(columns))
        if measure and not self.measured.shape[1]:
            self.measured = self.room(layers, len(MEASURED))
            self.measured_partial = self.room(chunks, len(MEASURED))

    def send(
        self,
        work: Work,
        constants: Constants = NO_CONSTANTS,
        options: RowOptions | None = None,
        rule: tuple[float, ...] = (),
        max_norm: float | None = None,
    ) -> None:
        """Send what may have changed since the last step: where the gradients are, and numbers.

        Args:
            work, constants, options: of the step.
            rule: its numbers.
            max_norm: of all gradients.
        """
        grads = [grad.data_ptr() for grad in work.grads]
        if self.gradients.send(grads):
            self.aligned = all(x % ALIGNMENT == 0 for x in grads)
        velocity = work.velocity
        numbers = (
            *_padded(self.program.options, 6),
            *_padded(rule, 5),
            0.0 if options is None else options.min_rms,
            0.0 if max_norm is None else max_norm,
            -1.0 if work.maximize else 1.0,
            work.l2,
            0.0 if velocity is None else velocity.momentum,
            0.0 if velocity is None else 1.0 - velocity.dampening,
            constants.eps,
            constants.floor,
        )
        kinds: tuple[tuple[float, ...], ...] = ()
        if options is not None:
            self.rates = [lr for lr in options.rates if isinstance(lr, Tensor)]
            pairs = zip(options.rates, options.decays, options.undecayed, strict=True)
            kinds = tuple((*_rate(lr), decay, undecayed) for lr, decay, undecayed in pairs)
        if self._said != (numbers, kinds) or self.kinds.captured or self.kinds.captures:
            self._said = numbers, kinds
            bits = [_bits(x) for x in numbers]
            for address, double, lr, decay, undecayed in kinds:
                bits += [int(address), int(double), _bits(lr), _bits(decay), int(undecayed)]
            self.kinds.send(bits)

    def counts(self, work: Work) -> bool:
        """Whether the kernels count the steps of this bucket: its step counts are on the device, and t is not known."""
        return self.arrangement.counts and not isinstance(work.t, Tensors)

    def tensors(self) -> list[Tensor]:
        """All that kernels read and write of this bucket's own."""
        own = [x for x in (*vars(self).values(), *vars(self.arrangement).values()) if isinstance(x, Tensor)]
        own += [self.kinds.there, self.gradients.there, *self.arrangement.task_tables]
        for look_ in self.looks.values():
            own += [look_.counters, look_.table, look_.tasks, look_.shared.squares, look_.shared.clip]
        return own

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Keep this memory from being given away while a stream still reads it that it was not allocated on."""
        rooms = (len(self.arrangement.task_tables), len(self.looks), self.table.shape[1], self.measured.shape[1])
        if (key := (stream.cuda_stream, *rooms)) in self._noted:
            return
        self._noted.add(key)
        for tensor in self.tensors():
            tensor.record_stream(stream)

    def held_by_graph(self) -> list[object]:
        """What a CUDA graph needs for as long as it is replayed; not the weights, which are its owner's."""
        return [self.tensors(), self.kinds.captured, self.gradients.captured, self.rates]


class Look:
    """Room for a look at the gradients of a bucket: the sums of each layer's, [layers, columns]."""

    def __init__(self, bucket: Bucket, columns: tuple[str, ...]) -> None:
        arrangement = bucket.arrangement
        self.counters = torch.zeros(len(bucket.counters) + 1, dtype=torch.int32, device=bucket.device)
        self.moves = self.counters[-1:]
        self.table = bucket.room(len(arrangement), max(1, len(columns)))
        self.nonfinite = self.table[:, columns.index("nonfinite")] if "nonfinite" in columns else None
        self.tasks = arrangement.looks()
        self.shared = Shared(self)  # if this bucket is the first of its device


class Shared:
    """What the buckets of a device find out together about their gradients."""

    def __init__(self, first: Look) -> None:
        self.moves = first.moves
        self.squares = torch.zeros(1, dtype=torch.float64, device=first.table.device)
        self.clip = torch.ones_like(self.squares)


def _padded(numbers: Sequence[float], length: int) -> list[float]:
    return [*map(float, numbers), *[0.0] * (length - len(numbers))]


def _bits(x: float) -> int:
    """The bits of a float64 as a whole number."""
    return int(struct.unpack("<q", struct.pack("<d", x))[0])


def _rate(lr: float | Tensor) -> tuple[int, bool, float]:
    """(address, whether float64 is there, the rate if it is not on the device)."""
    return (lr.data_ptr(), lr.dtype == torch.float64, 0.0) if isinstance(lr, Tensor) else (0, False, lr)
