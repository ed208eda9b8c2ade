"""The layer rotation curve: the cosine distance of each layer to its initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from layerpace.engine.common.fake import has_values
from layerpace.engine.common.printable import printable
from layerpace.engine.numerics.columns import MEASURED
from layerpace.engine.sharding.collectives import is_distributed, local
from layerpace.engine.support import real, real_shape
from layerpace.monitors.layout import Layout, by_device, has_weights
from layerpace.monitors.measure import moves
from layerpace.monitors.processes import from_writer, gather, spread_out, writes
from layerpace.monitors.quantities import cosine_distance
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Fields, Numbers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FIELDS = tuple(name for name in MEASURED if name != "gg")


class Rotation:
    """Copies of the initial weights, on the CPU, and how far layers have turned away from them.

    Of a sharded parameter every process keeps its own part; the one that writes keeps all of it, too.

    Args:
        layout: of the model.
        dtype: of the copies: "fp32" (float64 weights keep float64), or "bf16", which takes half the memory and reads
            a cosine distance of about 1e-6 where there is none.
    """

    def __init__(self, layout: Layout, dtype: str) -> None:
        self._layout = layout
        self._dtype = dtype
        self._initial: dict[str, Tensor] = {}  # what is here
        self._whole: dict[str, Tensor] = {}  # of sharded parameters
        self.add()

    def add(self) -> None:
        """Copy the weights of parameters that have none yet; every process must call it where they are sharded.

        What has no weights (it is on "meta") waits.
        """
        for param in self._layout.cuts():
            if has_weights(param):
                self._add(param)

    def _add(self, param: Tensor) -> Tensor:
        name = self._layout.parameter_name(param)
        here = real(local(param))
        if name not in self._initial or self._initial[name].shape != here.shape:  # another stands in its place
            self._initial[name] = self._copy(here)
            if is_distributed(param):
                whole = gather(param)
                if writes():
                    self._whole[name] = self._copy(real(whole))
        return self._initial[name]

    def _copy(self, x: Tensor) -> Tensor:
        wide = self._dtype == "fp32" and x.dtype == torch.float64
        return x.detach().to("cpu", torch.float64 if wide else DTYPES[self._dtype], copy=True)

    def state(self) -> dict[str, Tensor]:
        """{parameter: initial weights}; of sharded ones only where they are written."""
        sharded = self._layout.sharded
        every = {name: x for name, x in self._initial.items() if name not in sharded} | self._whole
        return {name: x for name, x in every.items() if has_values(x)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the initial weights of an earlier part of the training.

        Of sharded parameters those that the writing process has count, and every process must call it.

        Raises:
            ValueError: weights of another shape.
        """
        sharded = self._layout.sharded
        for name, own in self._initial.items():
            shape = own.shape if name not in sharded else real_shape(sharded[name].param)
            if name in state and state[name].shape != shape:
                raise ValueError(
                    f"the initial weights of {printable(name)} have shape {tuple(state[name].shape)}, the model's "
                    f"{tuple(shape)}: is it the same model?"
                )
        self._initial |= {name: x.to("cpu", copy=True) for name, x in state.items() if name not in sharded}
        if not sharded:
            return
        for name in from_writer([name for name in state if name in sharded]):
            held = sharded[name]
            whole = state[name].to("cpu", copy=True) if writes() else None
            if whole is not None:
                self._whole[name] = whole
            self._initial[name] = held.shard(spread_out(whole, held.param)).to("cpu", copy=True)

    @torch.no_grad()
    def read(self, params: Sequence[Tensor]) -> list[Numbers]:
        """The cosine distance of these parameters' layers now."""
        cuts = self._layout.cuts()
        out = []
        for _, members in by_device(params):
            shards = self._layout.shards(members, cuts)
            old, new = shards.pieces(map(self._add, members)), shards.pieces(map(Tensor.detach, members))
            names = tuple(name for param in members for name in self._layout.names(param))
            out.append(Numbers(names, FIELDS, Transfer(shards.sums(moves, len(FIELDS), old, new)), _read))
        return out


def _read(fields: Fields) -> dict[str, Tensor]:
    return {"cosine_distance": cosine_distance(fields)}
