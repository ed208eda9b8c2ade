"""Which layer each row of the table is.

Where nothing is sharded, the rows are those of the buckets, one after another. Else they are all layers in the order
of the entries, the same on every process, and each process has some of them in its buckets. Of the weights a, with the
segments a[0] and a[1] on a process each, and b, which both hold a half of::

    row of the table      0      1      2
    layer                 a[0]   a[1]   b
    process 0 adds up     x             x        of_local = [0, 2]
    process 1 adds up            x      x        of_local = [1, 2]

A process scatters the sums of its buckets into a table of zeros (``of_local``), the all-reduce makes it whole, the rule
computes c and b of every row on every process, and ``pieces`` takes from them what the buckets need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpace.engine.broadcast import by_layer, slices
from layerpace.engine.buckets import Bucket, OptionSets
from layerpace.engine.entries import Entry
from layerpace.engine.numerics.tensors import Scalar, Tensors
from layerpace.engine.sharding.collectives import TableReduce
from layerpace.engine.sharding.shards import Shard
from layerpace.layers.base import ParameterLayers


@dataclass
class RemoteRows:
    """Rows of a parameter with segments that other processes hold: what is one number a layer moves on here too.

    Attributes:
        layers: how these rows are cut.
        rows: int64 [layers]: of the table.
        state: the step counts, and the direction's ``layer_state``.
        kind: of the parameter.
        t: number of the step of each layer, broadcasting over the rows; set by each step.
    """

    layers: ParameterLayers
    rows: Tensor
    state: dict[str, Tensor]
    kind: int
    t: Tensors


class Rows:
    """The rows of the table.

    Attributes:
        cuts: how the parameters are cut into layers, in the order of their rows.
        states: the optimizer's state of each.
        kinds: of each row; see `OptionSets`.
        n: number of entries of each row.
        counts: rows of each bucket.
        sharing: adds them up over processes; None: nothing is sharded.
        absent: what this process holds nothing of.
    """

    def __init__(
        self, entries: Sequence[Entry], kinds: OptionSets, buckets: Sequence[Bucket], device: torch.device
    ) -> None:
        shared = any(entry.held is not None and entry.held.split for entry in entries)
        pairs = zip(entries, kinds.of, strict=True)
        ordered = list(pairs) if shared else [x for b in buckets for x in zip(b.entries, b.kinds, strict=True)]
        self.cuts = [entry.whole for entry, _ in ordered]
        self.states = [entry.saved for entry, _ in ordered]
        self.n: list[float] = []
        self.kinds: list[int] = []
        first: dict[int, int] = {}
        for entry, kind in ordered:
            first[id(entry)] = len(self.n)
            whole = entry.whole
            if whole.sizes is None and entry.held is None:
                self.n.append(float(entry.param.numel()))
                self.kinds.append(kind)
            else:
                self.n += map(float, entry.sizes)
                self.kinds += [kind] * whole.count
        self.counts = [sum(entry.layers.count for entry in bucket.entries) for bucket in buckets]
        self.slices = slices(self.counts)
        self.sharing: TableReduce | None = None
        self.absent: list[RemoteRows] = []
        if shared:
            here = [first[id(e)] + k for b in buckets for e in b.entries for k in _present(e)]
            groups = [() if e.held is None else e.held.groups for e, _ in ordered for _ in range(e.whole.count)]
            self.sharing = TableReduce(len(self.n), here, groups, device)
            for entry, kind in ordered:
                if entry.held is not None:
                    layer_state = ("step", *kinds.signatures[kind].direction.layer_state)
                    self.absent += _absent(entry, entry.held, kind, first[id(entry)], layer_state, device)

    def __len__(self) -> int:
        return len(self.n)

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return [name for cut in self.cuts for name in cut.layer_names]

    def pieces(self, x_L: Tensor | None) -> list[Tensor | None]:
        """A vector over the rows, cut into those of each bucket."""
        if x_L is None:
            return [None] * len(self.counts)
        if self.sharing is not None:
            x_L = x_L.index_select(0, self.sharing.of_local)
        return [x_L] if len(self.counts) == 1 else [x_L[rows] for rows in self.slices]

    def add(self, local_LC: Tensor) -> Tensor:
        """The sums over the rows of the buckets -> those of the table, over all processes."""
        return local_LC if self.sharing is None else self.sharing.add(local_LC)

    def collect(self, of_buckets: Sequence[Tensor], of_absent: Sequence[Scalar], device: torch.device) -> Tensor:
        """One number a layer, of what is here and of what is not -> float64 [rows].

        Args:
            of_buckets: float64 [rows of the bucket] each.
            of_absent: of each of ``absent``, a number, or broadcasting over its rows.
            device: of the result.
        """
        if self.sharing is None:
            return torch.cat(list(of_buckets))
        x_L = torch.empty(len(self), dtype=torch.float64, device=device)
        for absent, value in zip(self.absent, of_absent, strict=True):
            x_L.index_copy_(0, absent.rows, by_layer(value, [absent.layers], device))
        if of_buckets:
            x_L.index_copy_(0, self.sharing.of_local, torch.cat(list(of_buckets)))
        return x_L


def _present(entry: Entry) -> range | tuple[int, ...]:
    """The layers of a parameter that this process has rows of."""
    return range(entry.layers.count) if entry.held is None else entry.held.rows.present


def _absent(
    entry: Entry, held: Shard, kind: int, first: int, names: Sequence[str], device: torch.device
) -> list[RemoteRows]:
    found = []
    for part in held.absent:
        rows = torch.tensor([first + k for k in part.present], device="cpu").to(device)
        state = {name: entry.saved[name].narrow(0, part.first, part.last - part.first) for name in names}
        found.append(RemoteRows(part.layers, rows, state, kind, Tensors([state["step"]])))
    return found
