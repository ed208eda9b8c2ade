"""The records of a run as the rules read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layerpace.monitors.findings.thresholds import Thresholds
from layerpace.monitors.findings.uses import Uses
from layerpace.monitors.quantities import RATE, UPDATES
from layerpace.monitors.run import LayerInfo, Run

MATRIX, SCALE, BIAS = "matrix", "scale", "bias"
NORMS = ("weight_norm", "grad_norm", "update_norm")


class View:
    """Records of a run: of optimizers that step together, up to some moment.

    Args:
        run: the run; its layers without entries have no records here, as nothing can be said of them.
        thresholds: where the rules draw their lines.
        group: (optimizers, the layers that they train), of `History.together`; None: all.
        main: whether this view is the one that speaks of the training as a whole.
        before, before_time: a step and a time, seconds since the epoch, that the records are before.

    Attributes:
        run: the run.
        thresholds: where the rules draw their lines.
        layers: those of the history, in its order.
        steps: of the records, int.
        kinds: of each layer: "matrix", "scale" (a vector that starts near 1) or "bias" (any other vector).
        measured: bool [records, layers].
        initial: norm of the first weights that were measured, float64 [layers].
        judged: bool [layers]; the others are in another view.
        ruled: bool [layers]: a layer-wise rule sets their speed.
        uses: what the training uses already.
    """

    def __init__(
        self,
        run: Run,
        thresholds: Thresholds,
        group: tuple[set[int], set[str]] | None = None,
        main: bool = True,
        before: int | None = None,
        before_time: float = math.inf,
    ) -> None:
        self.run, self.thresholds, self.main = run, thresholds, main
        history = run.history
        if group is not None:
            history = history.of(group[0], before, before_time)
        known = {layer.name: layer for layer in run.layers}
        self.layers: list[LayerInfo] = [known.get(name, LayerInfo(name, ())) for name in history.layers]
        self.steps, self.times = history.steps, history.times
        self._blank = torch.full((len(self.steps), len(self.layers)), torch.nan, dtype=torch.float64, device="cpu")
        empty = torch.tensor([layer.entries == 0 for layer in self.layers], dtype=torch.bool, device="cpu")
        self.judged = ~empty
        if group is not None:
            own = [layer.name in group[1] for layer in self.layers]
            self.judged &= torch.tensor(own, dtype=torch.bool, device="cpu")
        self._values = {
            name: torch.where(empty, torch.nan, history[name].double()) for name in history.quantities if self.steps
        }
        self.ruled = (~self["trust_ratio"].isnan()).any(0)
        seen = [~self[name].isnan() for name in (*UPDATES, RATE) if name in self]
        self.measured = torch.stack(seen).any(0) if seen else torch.zeros_like(self._blank, dtype=torch.bool)
        for name in NORMS:  # a measured layer has these, unless they are not finite
            if name in self:
                self._values[name] = torch.where(self.measured & self[name].isnan(), torch.inf, self[name])
        self.initial = self.first("weight_norm")
        entries = torch.tensor([max(1, layer.entries) for layer in self.layers], dtype=torch.float64, device="cpu")
        rms = self.initial / entries.sqrt()
        self.kinds = [
            MATRIX if len(layer.shape) >= 2 else SCALE if float(size) >= 0.5 else BIAS
            for layer, size in zip(self.layers, rms, strict=True)
        ]
        self.uses = Uses(self)

    def __contains__(self, quantity: str) -> bool:
        return quantity in self._values

    def __getitem__(self, quantity: str) -> Tensor:
        """float64 [records, layers]; nan: not measured, inf: not finite."""
        return self._values.get(quantity, self._blank)

    def finite(self, quantity: str) -> Tensor:
        """The same with nan for what is not finite."""
        values = self[quantity]
        return torch.where(values.isfinite(), values, torch.nan)

    def logs(self, quantity: str) -> Tensor:
        """log10 of the same; nan for zeros too."""
        values = self.finite(quantity)
        return torch.where(values > 0, values, torch.nan).log10()

    def names(self, flags: Tensor) -> tuple[str, ...]:
        """The layers that a bool [layers] picks."""
        return tuple(layer.name for layer, flag in zip(self.layers, flags.tolist(), strict=True) if flag)

    def of_kind(self, *kinds: str) -> Tensor:
        """bool [layers]."""
        return torch.tensor([kind in kinds for kind in self.kinds], dtype=torch.bool, device="cpu")

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last step."""
        return (self.steps[0], self.steps[-1]) if self.steps else None

    @property
    def enough(self) -> Tensor:
        """bool [layers]: those with enough records to judge."""
        return self.measured.sum(0) >= self.thresholds.min_records

    def window(self, count: int) -> int:
        """How many of ``count`` records stand for the start or the end."""
        least = max(2, math.ceil(self.thresholds.min_records / 2))
        return min(count, max(least, math.ceil(self.thresholds.window * count)))

    def early(self, values: Tensor) -> Tensor:
        """Median over a layer's first records, the very first one left out: float64 [layers]."""
        return self._columns(values, lambda x: x[1:][: self.window(len(x))])

    def late(self, values: Tensor) -> Tensor:
        """Median over a layer's last records: float64 [layers]."""
        return self._columns(values, lambda x: x[-self.window(len(x)) :])

    def settled(self, values: Tensor) -> Tensor:
        """Median over the second half of a layer's records: float64 [layers]."""
        return self._columns(values, lambda x: x[len(x) // 2 :])

    def _columns(self, values: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        out = torch.full((values.shape[1],), torch.nan, dtype=torch.float64, device="cpu")
        if not len(values):
            return out
        whole = ~values.isnan().any(0)
        if whole.any():
            out[whole] = median(part(values[:, whole]), 0)
        for place in (~whole).nonzero()[:, 0].tolist():
            column = values[:, place]
            there = column[~column.isnan()]
            if len(there):
                out[place] = median(part(there), 0)
        return out

    def first(self, quantity: str) -> Tensor:
        """The first value of each layer: float64 [layers]."""
        return self._columns(self.finite(quantity), lambda x: x[:1])

    def all_late(self, shows: Tensor) -> Tensor:
        """bool [layers]: so in all of a layer's last records."""
        out = []
        for place in range(len(self.layers)):
            mine = shows[self.measured[:, place], place]
            out.append(bool(mine[-self.window(len(mine)) :].all()) if len(mine) else False)
        return torch.tensor(out, dtype=torch.bool, device="cpu")

    def since(self, alive: Tensor, flags: Tensor) -> tuple[int, int]:
        """From the last record in which any of the layers was alive, to the end."""
        rows = (alive & self.measured)[:, flags].any(1).nonzero()
        first = int(rows[-1]) + 1 if len(rows) else 0
        return self.steps[min(first, len(self.steps) - 1)], self.steps[-1]

    def scalar(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a logged scalar, up to the view's end."""
        series = self.run.scalars[name]
        last = self.steps[-1] if self.steps else math.inf
        pairs = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if s <= last]
        return [s for s, _ in pairs], [v for _, v in pairs]

    @property
    def losses(self) -> list[str]:
        """The logged scalars that are losses of the training, as far as this view speaks of it."""
        if not self.main:
            return []
        apart = ("val", "test", "eval")
        names = [name for name in self.run.scalars if name.lower().replace("/", "_").split("_")[-1] == "loss"]
        return [name for name in names if not any(word in name.lower() for word in apart)]


def median(values: Tensor, dim: int) -> Tensor:
    """Median that skips nan, the mean of the two middle values of an even number; nan where there is none."""
    if values.shape[dim] == 0:
        return values.new_full(values.shape[:dim] + values.shape[dim + 1 :], torch.nan)
    return torch.nanquantile(values, 0.5, dim)


def spread(values: Tensor) -> float:
    """Robust standard deviation, 1.4826 times the median distance from the median, of [n] values; skips nan."""
    return 1.4826 * float(median((values - median(values, 0)).abs(), 0))


def gain(layer: LayerInfo, norm: float) -> float:
    """RMS*sqrt(fan-in) of a matrix: near 1 keeps the size of what passes (Glorot, He); nan of an empty one."""
    if not layer.entries:
        return math.nan
    fan_in = math.prod(layer.shape[1:])
    return norm / math.sqrt(layer.entries) * math.sqrt(fan_in)


def pick(names: Sequence[str], values: Tensor, view: View) -> list[float]:
    """The values of named layers."""
    chosen = set(names)
    return [float(v) for layer, v in zip(view.layers, values, strict=True) if layer.name in chosen]
