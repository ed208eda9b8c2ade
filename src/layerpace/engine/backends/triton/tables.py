"""A bucket as tables on the device: where tensors are, how layers are cut into chunks, and in which order to work.

Tables are made once for a bucket. What a step changes (learning rates, the addresses of gradients) is sent in one copy,
if it has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from layerpace.engine.backends.programs import Program
from layerpace.engine.backends.protocol import RowOptions, Work
from layerpace.engine.backends.triton.kernels import tables as at
from layerpace.engine.numerics.precision import SEED
from layerpace.rules import Rule

BLOCK = 1024  # entries that a program works on at a time
SMALL = 4096  # entries: a layer of so many is one program's, in both passes
LEAST, MOST = 2048, 32768  # entries of a chunk
ALIGNMENT = 16  # bytes


def chunk_size(entries: int) -> int:
    """Entries of a layer's chunks: few enough chunks to be added up quickly, and a power of two."""
    if entries <= SMALL:
        return SMALL
    return min(max(1 << (-(-entries // 1024) - 1).bit_length(), LEAST), MOST)


@dataclass(frozen=True)
class Layer:
    """A layer of a bucket; ``chunks`` are the numbers of its chunks."""

    param: int
    start: int
    entries: int
    rows: int
    first_row: int
    part: int
    chunk: int
    chunks: range


def cut(work: Work) -> list[Layer]:
    """The layers of a bucket, in the order of the rows of the table, cut into chunks."""
    layers: list[Layer] = []
    chunks = 0
    for number, (param, parts) in enumerate(zip(work.params, work.layers, strict=True)):
        n = param.numel()
        sizes = [1] if parts.sizes is None else list(parts.sizes)
        row = n if parts.sizes is None else n // max(1, param.shape[0])
        start = first_row = 0
        for part, rows in enumerate(sizes):
            entries = rows * row
            size = chunk_size(entries)
            last = chunks - (-entries // size)
            layers.append(Layer(number, start, entries, rows, first_row, part, size, range(chunks, last)))
            start, first_row, chunks = start + entries, first_row + rows, last
    return layers


class Arrangement:
    """The tables of a bucket that stay what they are.

    Attributes:
        cut: its layers.
        layers, tensors, layer_of_chunk: on the device; see `kernels.tables`.
        aligned: whether all tensors but the gradients, and all chunks, begin at a multiple of `ALIGNMENT` bytes.
        counts: whether step counts are on the device.
    """

    def __init__(self, work: Work, program: Program, rule: Rule | None, options: RowOptions | None) -> None:
        self.device = work.device
        self.cut = cut(work)
        kinds = [0] * len(self.cut) if options is None else options.kinds
        self.excluded = [False] * len(self.cut) if options is None else options.excluded
        rule_memory = "".join(() if rule is None else rule.state_names)
        self.counts = not work.uniform
        moments = [*program.moments, *["velocity"] * (work.velocity is not None)]
        item = min(x.element_size() for x in (*work.params, *(state[name] for state in work.state for name in moments)))
        rows: list[list[int]] = []
        for layer, kind, left_out in zip(self.cut, kinds, self.excluded, strict=True):
            state = work.state[layer.param]
            row = [0] * at.LAYER.value
            row[at.PARAM.value], row[at.START.value], row[at.ENTRIES.value] = layer.param, layer.start, layer.entries
            row[at.FIRST_CHUNK.value], row[at.CHUNKS.value] = layer.chunks.start, len(layer.chunks)
            row[at.CHUNK.value], row[at.KIND.value], row[at.EXCLUDED.value] = layer.chunk, kind, int(left_out)
            row[at.ROWS.value] = layer.rows
            step = state["step"]
            if step.device == self.device and self.counts:
                row[at.STEP.value] = _address(step, layer.first_row)
            if program.memory:
                row[at.PRODUCT.value] = _address(state[program.memory], layer.first_row)
            if rule_memory:
                row[at.MEMORY.value] = _address(state[rule_memory], layer.part)
            row[at.SEED.value] = int(state[SEED]) if SEED in state else 0
            rows.append(row)
        places: list[list[int]] = []
        for param, state in zip(work.params, work.state, strict=True):
            place = [0] * at.PLACES.value
            place[at.WEIGHT.value] = param.data_ptr()
            for k, name in enumerate(program.moments):
                place[at.MOMENT.value + k] = state[name].data_ptr()
            if work.velocity is not None:
                place[at.VELOCITY.value] = state["velocity"].data_ptr()
            if "master" in state:
                place[at.MASTER.value] = state["master"].data_ptr()
            places.append(place)
        self.layers = _table(rows, torch.int64, self.device)
        self.tensors = _table(places, torch.int64, self.device)
        chunks = [number for number, layer in enumerate(self.cut) for _ in layer.chunks]
        self.chunks = len(chunks)
        self.layer_of_chunk = _table(chunks, torch.int32, self.device)
        self.aligned = all(x % ALIGNMENT == 0 for place in places for x in place) and all(
            layer.start * item % ALIGNMENT == 0 for layer in self.cut if layer.entries
        )
        self._tasks: dict[tuple[bool, ...], tuple[Tensor, int]] = {}

    def __len__(self) -> int:
        return len(self.cut)

    def tasks(
        self, *, first: bool, second: bool, reads: bool, fixed: bool, measure: bool, keep: bool
    ) -> tuple[Tensor, int]:
        """The tasks of a launch, int32 [tasks, 2], and the kinds of tasks among them: others would cost registers.

        Args:
            first, second: which passes it makes; both: a whole step.
            reads: whether there are columns.
            fixed: no layer's coefficients depend on sums.
            measure: whether there are sums for monitors.
            keep: whether there are counts to be written.
        """
        key = (first, second, reads, fixed, measure, keep)
        if key not in self._tasks:
            found = self._order(*key)
            kinds = reduce(or_, (what for what, _ in found), 0)
            self._tasks[key] = _table(found or [(0, 0)], torch.int32, self.device)[: len(found)], kinds
        return self._tasks[key]

    @property
    def task_tables(self) -> list[Tensor]:
        """Of the launches so far."""
        return [tasks for tasks, _ in self._tasks.values()]

    def looks(self) -> Tensor:
        """The tasks of a look at the gradients, int32 [tasks, 2]."""
        found = [(at.FIRST.value, chunk) for layer in self.cut for chunk in layer.chunks]
        found += [(at.REDUCE.value, number) for number in range(len(self.cut))]
        return _table([*found, (at.TOTAL.value, 0)], torch.int32, self.device)

    def _order(
        self, first: bool, second: bool, reads: bool, fixed: bool, measure: bool, keep: bool
    ) -> list[tuple[int, int]]:
        ahead = programs_at_once(self.device)
        queue = Queue(ahead)
        for number, layer in enumerate(self.cut):
            whole = first and second
            at_once = whole and (fixed or self.excluded[number])
            before = at.BOTH.value if at_once else at.FIRST.value if first else at.SECOND.value
            sums = at.REDUCE.value if first and (reads or (whole and not at_once)) else 0
            after = at.SECOND.value if whole and not at_once else 0
            last = at.MEASURE.value if second and measure else 0
            counts = at.KEEP_COUNTS.value if first and keep else 0
            if len(layer.chunks) == 1:
                queue.add(counts | before | sums | after | last, layer.chunks[0])
                continue
            if counts:
                queue.add(counts, number)
            for chunk in layer.chunks:
                queue.add(before, chunk)
            large = layer.entries > LARGE
            later = [(sums, [number])] if sums else []
            if after:
                # What the first pass has read last is in the cache still, of a layer that does not fit into it.
                later.append((after, list(reversed(layer.chunks) if large else layer.chunks)))
            if last:
                later.append((last, [number]))
            queue.then(later)
        return queue.finish()


LARGE = 1 << 21  # entries: with two moments more than an L2 cache of 32 MiB


class Queue:
    """Tasks in their order: what follows from a layer's first pass comes when that is probably done."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.tasks: list[tuple[int, int]] = []
        self._waiting: deque[tuple[int, list[tuple[int, list[int]]]]] = deque()

    def add(self, what: int, number: int) -> None:
        """A task that waits for none."""
        while self._waiting and self._waiting[0][0] <= len(self.tasks):
            self._next()
        self.tasks.append((what, number))

    def then(self, later: list[tuple[int, list[int]]]) -> None:
        """Tasks that wait for all that there are, and groups of them for the groups before."""
        if later:
            self._waiting.append((len(self.tasks) + self.ahead, later))

    def _next(self) -> None:
        _, (group, *others) = self._waiting.popleft()
        self.tasks += [(group[0], number) for number in group[1]]
        if others:
            self.then(others)

    def finish(self) -> list[tuple[int, int]]:
        """All tasks."""
        while self._waiting:
            self._next()
        return self.tasks


def programs_at_once(device: torch.device) -> int:
    """About how many programs the device runs at the same time."""
    if device.type != "cuda":
        return 4
    return 4 * int(torch.cuda.get_device_properties(device).multi_processor_count)


def _address(numbers: Tensor, index: int) -> int:
    return numbers.data_ptr() + index * numbers.element_size()


def _table(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # A replay would copy once more from memory of the host that has been given away.
        raise RuntimeError(
            "a CUDA graph can hold a step like those before it only: make one with the same parameters, gradients, "
            "options and monitors before the capture"
        )
    host = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


class Sent:
    """Numbers of the host on the device, int64; sent when they have changed.

    A CUDA graph reads again at each replay what was copied while it was captured: from memory that nothing writes
    any more.
    """

    SPARES = 4  # sends in captures between two steps outside of them

    def __init__(self, size: int, device: torch.device) -> None:
        self.there = torch.zeros(size, dtype=torch.int64, device=device)
        self.captured: list[Tensor] = []
        self._known: list[int] | None = None
        self._pins = device.type == "cuda"
        self._spares: list[Tensor] = []
        self._refill()

    def _refill(self) -> None:
        while self._pins and len(self._spares) < self.SPARES:
            self._spares.append(torch.empty(len(self.there), dtype=torch.int64, device="cpu", pin_memory=True))

    @property
    def captures(self) -> bool:
        """Whether what is sent now goes into a CUDA graph."""
        return self._pins and torch.cuda.is_current_stream_capturing()

    def send(self, values: list[int]) -> bool:
        """Make these the first numbers on the device, in the order of its current stream; whether that was needed."""
        if self.captures:
            if not self._spares:
                raise RuntimeError("too many steps in CUDA graphs: make one outside of them before the next capture")
            host = self._spares.pop()[: len(values)]
            host.copy_(torch.tensor(values, dtype=torch.int64, device="cpu"))
            self.captured.append(host)
            self._known = None  # what a replay writes, the host does not see
        else:
            if values == self._known and not self.captured:
                return False
            self._known = values
            self._refill()
            host = torch.tensor(values, dtype=torch.int64, device="cpu", pin_memory=self._pins)
        self.there[: len(values)].copy_(host, non_blocking=True)
        return True
