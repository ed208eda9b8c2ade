"""The layer rotation curve: the cosine distance of each layer to its initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from layerpace.columns import MEASURED
from layerpace.monitors.layout import Layout, by_device, pieces
from layerpace.monitors.measure import moves
from layerpace.monitors.quantities import cosine_distance
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Fields, Numbers
from layerpace.optim.support import real

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FIELDS = tuple(name for name in MEASURED if name != "gg")


class Rotation:
    """Copies of the initial weights, on the CPU, and how far layers have turned away from them.

    Args:
        layout: of the model.
        dtype: of the copies: "fp32" (float64 weights keep float64), or "bf16", which takes half the memory and reads
            a cosine distance of about 1e-6 where there is none.
    """

    def __init__(self, layout: Layout, dtype: str) -> None:
        self._layout = layout
        self._dtype = dtype
        self._initial: dict[str, Tensor] = {}
        self.add()

    def add(self) -> None:
        """Copy the weights of parameters that have none yet."""
        for param in self._layout.cuts():
            self._add(param)

    def _add(self, param: Tensor) -> Tensor:
        name = self._layout.parameter_name(param)
        if name not in self._initial:
            wide = self._dtype == "fp32" and real(param).dtype == torch.float64
            dtype = torch.float64 if wide else DTYPES[self._dtype]
            self._initial[name] = real(param).detach().to("cpu", dtype, copy=True)
        return self._initial[name]

    def state(self) -> dict[str, Tensor]:
        """{parameter: initial weights}."""
        return dict(self._initial)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the initial weights of an earlier part of the training.

        Raises:
            ValueError: weights of another shape.
        """
        for name, own in self._initial.items():
            if name in state and state[name].shape != own.shape:
                raise ValueError(
                    f"the initial weights of {name} have shape {tuple(state[name].shape)}, the model's "
                    f"{tuple(own.shape)}: is it the same model?"
                )
        self._initial |= {name: x.to("cpu", copy=True) for name, x in state.items()}

    @torch.no_grad()
    def read(self, params: Sequence[Tensor]) -> list[Numbers]:
        """The cosine distance of these parameters' layers now."""
        cuts = self._layout.cuts()
        out = []
        for _, members in by_device(params):
            old = [piece for param in members for piece in pieces(self._add(param), cuts[param])]
            new = [piece for param in members for piece in pieces(param.detach(), cuts[param])]
            names = tuple(name for param in members for name in self._layout.names(param))
            out.append(Numbers(names, FIELDS, Transfer(moves(old, new)), _read))
        return out


def _read(fields: Fields) -> dict[str, Tensor]:
    return {"cosine_distance": cosine_distance(fields)}
