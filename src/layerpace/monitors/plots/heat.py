"""Trust ratios, layer x step, as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ..history import History
from ..run import Run
from .style import figure_of, layer_ticks, new_axes, short_names
from .words import has, history_of, measured, taken

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..monitor import Monitor

COLUMNS = 400  # more steps than a picture can show are thinned
NOT_MEASURED, NOT_FINITE, ZERO = "0.88", "#CC79A7", "black"


def trust_ratios(run: Run | History | Monitor, ax: Axes | None = None, clipped: bool = True) -> Axes:
    """The factor that the rule put on the learning rate, after clipping, of every layer and step.

    Colours are logarithmic. Layers that the rule leaves out are not shown. Grey: not measured; pink: not finite;
    black: zero.

    Args:
        run: a run, its monitor, or the records of one.
        ax: axes to draw into; None: those of a new figure. The colour bar stands to their right.
        clipped: hatch the cells in which the clip lowered or raised the ratio, as far as the run has both ratios.

    Raises:
        ValueError: no trust ratio recorded.
        ImportError: matplotlib is missing.
    """
    run = taken(run)
    steps, values = measured(run, "trust_ratio")
    axes = new_axes(ax)
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    history = history_of(run)
    shown_layers = (~values.isnan().all(dim=0)).nonzero().flatten()
    all_names = short_names(history.layers)
    names = [all_names[k] for k in shown_layers.tolist()]
    stride = -(-len(steps) // COLUMNS)
    ratios = held(values)[::stride][:, shown_layers].T
    left = edges(steps[::stride])
    positive = ratios[ratios.isfinite() & (ratios > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    margin = 2.0 if high < 1.05 * low else 1.001  # one value: a scale around it
    low, high = low / margin, high * margin
    # As far as the light end of the layers' colours, on which a hatch shows.
    seen = ListedColormap(colormaps["viridis"](torch.linspace(0, 0.92, 256, device="cpu").numpy()))
    colours = seen.with_extremes(bad=NOT_MEASURED, under=ZERO, over=NOT_FINITE)
    heights = [k - 0.5 for k in range(len(names) + 1)]
    # A log norm takes a zero for missing; far below the scale it has the colour of zeros.
    cells = torch.where(ratios == 0, low * 1e-6, torch.where(ratios.isinf(), high * 1e6, ratios))
    mesh = axes.pcolormesh(left, heights, cells.numpy(), norm=LogNorm(low, high), cmap=colours, rasterized=True)
    figure_of(axes).colorbar(mesh, ax=axes, pad=0.02, label="trust ratio (factor on the learning rate)")
    axes.set_title("Trust ratio", fontsize=11)
    label = "step"
    if clipped and has(run, "trust_ratio_unclipped"):
        rows = (~history["trust_ratio"].isnan().all(dim=1)).nonzero().flatten()
        raw = held(history["trust_ratio_unclipped"][rows])[::stride][:, shown_layers].T
        known = ratios.isfinite() & ~raw.isnan()
        changed = ~torch.isclose(ratios, raw, rtol=1e-5, atol=0.0) & known
        lowered, raised = changed & (raw > ratios), changed & (raw < ratios)
        hatch(axes, left, lowered, "////", "black")
        hatch(axes, left, raised, "\\\\\\\\", "white")
        share = 100 / max(1, int(known.sum()))
        signs = {"/": int(lowered.sum()), "\\": int(raised.sum())}
        found = [f"{3 * sign} {'down' if sign == '/' else 'up'} in {share * n:.3g}%" for sign, n in signs.items() if n]
        label += f"\nclipped: {', '.join(found) or 'never'}"
    layer_ticks(axes, names, vertical=True)
    axes.invert_yaxis()  # the input on top
    axes.set_xlabel(label)
    axes.set_ylabel("layer, from input (top) to output")
    return axes


def held(values: torch.Tensor) -> torch.Tensor:
    """[records, layers] with the last figure of a layer held until its next one is due: optimizers may take turns."""
    values = values.clone()
    for column in values.T:
        there = (~column.isnan()).nonzero().flatten()
        if len(there) < 2:
            continue
        distance = there.diff()
        usual = int(distance.median())
        for place in (distance > 1).nonzero().flatten().tolist() if usual > 1 else ():
            start = int(there[place])
            column[start + 1 : start + min(usual, int(distance[place]))] = column[start].clone()
    return values


def edges(steps: Sequence[int]) -> list[float]:
    """Borders of the cells around the steps: halfway to the neighbours."""
    if len(steps) == 1:
        return [steps[0] - 0.5, steps[0] + 0.5]
    middle = [(a + b) / 2 for a, b in pairwise(steps)]
    return [2 * steps[0] - middle[0], *middle, 2 * steps[-1] - middle[-1]]


def hatch(axes: Axes, borders: Sequence[float], marked: torch.Tensor, pattern: str, colour: str) -> None:
    """Hatch the marked cells [rows, columns].

    contourf draws a border halfway between two points; a pair of points just inside of each cell's two borders makes
    that the border itself.
    """
    if not marked.any():
        return
    inside = 1e-3

    def pairs(limits: Sequence[float]) -> list[float]:
        return [at for a, b in pairwise(limits) for at in (a + inside * (b - a), b - inside * (b - a))]

    xs, ys = pairs(borders), pairs([k - 0.5 for k in range(marked.shape[0] + 1)])
    fine = marked.repeat_interleave(2, 0).repeat_interleave(2, 1).float()
    regions = axes.contourf(xs, ys, fine.numpy(), levels=[0.5, 1.5], colors="none", hatches=[pattern])
    regions.set_edgecolor(colour)
    regions.set_linewidth(0)
