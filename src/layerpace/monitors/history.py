"""What a monitor has recorded: quantities x records x layers, on the host, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpace.checks import check_choice


@dataclass(frozen=True)
class Row:
    """A record: ``values`` float32 [quantities, layers]."""

    names: tuple[str, ...]
    values: Tensor

    def of(self, quantity: str) -> Tensor | None:
        """[layers]; None: the record does not have it."""
        return self.values[self.names.index(quantity)] if quantity in self.names else None


class History:
    """Records of all layers, in the order in which they were made.

    When there are more than ``limit`` records every second one goes, and from then on every second one is kept, and so
    on: the whole training stays visible, ever more coarsely. Records of several optimizers of one model follow one
    another; each has nan for the layers of the others.

    Attributes:
        layers: names, from input to output.
        limit: the most records that are kept; None: all.
    """

    def __init__(self, layers: Sequence[str], limit: int | None = None) -> None:
        self.layers = tuple(layers)
        self.limit = limit
        self._places = {name: place for place, name in enumerate(self.layers)}
        self._steps: list[int] = []
        self._times: list[float] = []
        self._rows: list[Row] = []
        self._stride = 1
        self._seen = 0

    def append(self, step: int, time: float, values: Mapping[str, Tensor]) -> None:
        """Add a record.

        Args:
            step: number of the optimizer step, 1, 2, ...
            time: seconds since the epoch.
            values: [L] by quantity; nan: not measured, inf: not finite.
        """
        rows = [value.reshape(1, -1) for value in values.values()]
        block = torch.stack(rows, 1) if rows else torch.empty(1, 0, len(self.layers))
        self.extend([step], [time], tuple(values), block)

    def extend(self, steps: Sequence[int], times: Sequence[float], names: tuple[str, ...], values: Tensor) -> None:
        """Add records of the same quantities; as `append`, with ``values`` [records, quantities, layers]."""
        kept = [place for place in range(len(steps)) if (self._seen + place) % self._stride == 0]
        self._seen += len(steps)
        if len(kept) < len(steps):  # rows are parts of a tensor, which must have no others
            values = values[kept]
        self._steps += [steps[place] for place in kept]
        self._times += [times[place] for place in kept]
        self._rows += [Row(names, row) for row in values.to("cpu", torch.float32).unbind(0)]
        while self.limit is not None and len(self._steps) > self.limit:
            self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        self._rows = [Row(row.names, row.values.clone()) for row in self._rows[::2]]
        self._steps, self._times = self._steps[::2], self._times[::2]

    def take_over(self, other: History) -> None:
        """Start with the records of another history, of the same layers."""
        self.add_layers(other.layers)
        for step, time, row in zip(other._steps, other._times, other._rows, strict=True):
            self.extend([step], [time], row.names, row.values[None])

    def add_layers(self, layers: Sequence[str]) -> None:
        """Take in layers that were not there before; earlier records have nan for them."""
        for name in layers[len(self.layers) :]:
            self._places[name] = len(self._places)
        self.layers = (*self.layers, *layers[len(self.layers) :])

    def truncate(self, last: Callable[[Iterable[str]], int]) -> None:
        """Drop records that are too late: ``last`` gives the last step that is kept of those of these layers."""
        kept = [place for place, step in enumerate(self._steps) if step <= last(self._measured(self._rows[place]))]
        self._seen -= self._stride * (len(self._steps) - len(kept))
        self._steps = [self._steps[place] for place in kept]
        self._times = [self._times[place] for place in kept]
        self._rows = [self._rows[place] for place in kept]

    def _measured(self, row: Row) -> list[str]:
        """The layers that a record tells of."""
        told = (~row.values.isnan()).any(0).tolist()
        return [name for name, known in zip(self.layers, told, strict=False) if known]

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        return list(self._steps)

    @property
    def times(self) -> list[float]:
        """The time of each record, seconds since the epoch."""
        return list(self._times)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Those that some record has; see `layerpace.monitors.quantities`."""
        kinds = dict.fromkeys(row.names for row in self._rows)
        return tuple(dict.fromkeys(name for names in kinds for name in names))

    def __contains__(self, quantity: str) -> bool:
        return quantity in self.quantities

    def __getitem__(self, quantity: str) -> Tensor:
        """float32 [records, layers]; nan: not measured, inf: not finite.

        Raises:
            ValueError: a quantity that no record has.
        """
        if quantity not in self:
            check_choice("quantity", quantity, self.quantities)
        missing = torch.full((len(self.layers),), torch.nan)
        found = (row.of(quantity) for row in self._rows)
        return torch.stack([missing if row is None else self._padded(row) for row in found])

    def _padded(self, row: Tensor) -> Tensor:
        """A row of an earlier time may lack the layers that were added later."""
        added = len(self.layers) - len(row)
        return torch.cat([row, torch.full((added,), torch.nan)]) if added else row

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one layer where it was measured."""
        place = self.place(layer)
        pairs = []
        for step, row in zip(self._steps, self._rows, strict=True):
            values = row.of(quantity)
            if values is not None and place < len(values) and not torch.isnan(values[place]):
                pairs.append((step, float(values[place])))
        return [step for step, _ in pairs], [value for _, value in pairs]

    def place(self, layer: str) -> int:
        """The column of a layer.

        Raises:
            ValueError: no such layer.
        """
        if layer not in self._places:
            check_choice("layer", layer, self.layers)
        return self._places[layer]

    def rotation_rate(self, first: int | None = None, last: int | None = None) -> dict[str, float]:
        """How fast each layer leaves its initial weights between two records: change of cosine distance a step.

        Args:
            first, last: steps; the record nearest to each that has the cosine distance counts. None: the first, the
                last.

        Returns:
            {layer: rate}; layers without two such records are left out.
        """
        rates = {}
        for layer in self.layers if "cosine_distance" in self else ():
            steps, values = self.series("cosine_distance", layer)
            if len(steps) < 2:
                continue
            begin = 0 if first is None else _nearest(steps, first)
            end = len(steps) - 1 if last is None else _nearest(steps, last)
            if steps[end] != steps[begin]:
                rates[layer] = (values[end] - values[begin]) / (steps[end] - steps[begin])
        return rates


def _nearest(steps: Sequence[int], wanted: int) -> int:
    return min(range(len(steps)), key=lambda place: abs(steps[place] - wanted))
