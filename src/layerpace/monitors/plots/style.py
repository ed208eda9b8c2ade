"""What all pictures share: colours, keys, edges of the axes.

Layers go from dark (input) to light (output) along viridis, which stops short of its yellow: white paper swallows it.
Categories (methods, steps) have the Okabe-Ito colours, which colour-blind readers tell apart, and a dash or a marker
each, so that they differ in grey too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...engine.common.extras import how_to_install
from ...engine.common.printable import printable
from ..names import short_names as names_without_shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NAMED_LAYERS = 10  # with more, a colour bar instead of a legend
LONGEST_NAME = 26  # characters of a layer's name in a picture
LABELS_PER_INCH = 2.6  # layer names below an axis
GREY = "0.45"


def require_matplotlib() -> None:
    """Raise a one-line ImportError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"plots need matplotlib: {how_to_install('report')}")


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, outside of pyplot: it goes away with its last reference."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None, width: float = 8.0, height: float = 4.8) -> Axes:
    """`ax`, or the axes of a new figure."""
    require_matplotlib()
    made: Axes = new_figure(width, height).add_subplot() if ax is None else ax
    return made


def figure_of(axes: Axes) -> Figure:
    """The figure that holds the axes, also in a subfigure."""
    figure: Any = axes.figure
    return figure  # type: ignore[no-any-return]


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def layer_colours(count: int) -> list[Any]:
    """Dark at the input, light at the output; stops short of viridis' yellow, which white swallows."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def short_names(layers: Sequence[str]) -> list[str]:
    """Names as a picture has room for.

    ".weight" goes, then what all names begin with, if one is too long; what is longer still is cut in the middle.
    """
    names = names_without_shared(layers, LONGEST_NAME)
    tail = (LONGEST_NAME - 1) * 3 // 5  # the end tells more than the start
    head = LONGEST_NAME - 1 - tail
    return [as_label(name if len(name) <= LONGEST_NAME else f"{name[:head]}…{name[-tail:]}") for name in names]


def as_label(name: str) -> str:
    """A name as matplotlib shows it: on one line, and a dollar in it is one, not the start of a formula."""
    return printable(name).replace("$", r"\$")


def layer_key(figure: Figure, panels: Sequence[Axes], layers: Sequence[str]) -> None:
    """Which colour is which layer: names beside the panels, or a bar from input to output."""
    if len(layers) > NAMED_LAYERS:
        layer_bar(figure, panels, len(layers))
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, marker="o", linestyle="-") for c in layer_colours(len(layers))]
    labels = [as_label(name.removesuffix(".weight")) for name in layers]
    figure.legend(handles, labels, loc="outside right center", title="layer", frameon=False, fontsize=9)


def layer_bar(figure: Figure, panels: Sequence[Axes], count: int, faint: bool = False) -> None:
    """A colour bar from input to output beside the panels."""
    bar = figure.colorbar(layer_scale(count), ax=list(panels), ticks=[1, count], shrink=0.6, pad=0.02)
    label_bar(bar, count, faint)


def label_bar(bar: Any, count: int, faint: bool) -> None:
    bar.ax.set_yticklabels(["input", "output"])
    bar.set_label(f"{count} layers" + " (faint: vectors)" * faint)


def layer_scale(count: int) -> Any:
    """What a colour bar of the layers shows."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    return ScalarMappable(Normalize(1, count), ListedColormap(layer_colours(count)))


def layer_sidebar(side: Any, names: Sequence[str], dashed: Sequence[bool]) -> None:
    """The key of layers, on a subfigure of its own."""
    if len(names) <= NAMED_LAYERS:
        side.legend(**layer_handles(names, dashed), loc="center left", frameon=False, fontsize=9)
        return
    bar = side.colorbar(layer_scale(len(names)), cax=side.add_axes((0.1, 0.3, 0.15, 0.4)), ticks=[1, len(names)])
    label_bar(bar, len(names), any(dashed))


def axes_key(axes: Axes, layers: Sequence[str], dashed: Sequence[bool]) -> None:
    """The same for one panel alone: names to its right, dashed as they are drawn, or the bar."""
    if len(layers) > NAMED_LAYERS:
        layer_bar(figure_of(axes), [axes], len(layers), any(dashed))
        return
    beside(axes, **layer_handles(short_names(layers), dashed))


def layer_handles(names: Sequence[str], dashed: Sequence[bool]) -> dict[str, Any]:
    """What a legend of the layers shows."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, linestyle="--" if dash else "-", linewidth=2)
        for colour, dash in zip(layer_colours(len(names)), dashed, strict=True)
    ]
    return {"handles": handles, "labels": list(names), "title": "layer"}


def beside(axes: Axes, **options: Any) -> None:
    """A legend to the right of the panel."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, **options)


def layer_ticks(axes: Axes, names: Sequence[str], *, vertical: bool = False) -> None:
    """Short names of the layers along an axis, as many as fit; the layers stand at 0, 1, 2, ..."""
    box, figure = axes.get_position(), figure_of(axes)
    if vertical:
        fitting = box.height * figure.bbox.height / figure.dpi * 1.6 * LABELS_PER_INCH
    else:
        fitting = box.width * figure.bbox.width / figure.dpi * LABELS_PER_INCH
    stride = max(1, -(-len(names) // max(2, int(fitting))))
    places = list(range(0, len(names), stride))
    labels = [names[place] for place in places]
    if vertical:
        axes.set_yticks(places, labels, fontsize=8)
        return
    steep = sum(map(len, labels)) > 10 * box.width * figure.bbox.width / figure.dpi
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if steep else {}
    axes.set_xticks(places, labels, fontsize=8, **turn)


def edge_marks(
    axes: Axes, xs: Sequence[float], marked: Sequence[bool], colour: Any, *, top: bool, along: bool = True
) -> None:
    """Mark what an axis cannot show at its edge: at the top what is not finite, at the bottom zeros of a log axis.

    Each is a triangle; with `along` a stretch of neighbours is a line along the edge, with a triangle at its start.
    """
    at = [x for k, x in enumerate(xs) if marked[k] and not (along and k and marked[k - 1])]
    if not at:
        return
    height, marker = (1.0, "^") if top else (0.0, "v")
    style: dict[str, Any] = {"color": colour, "transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 4}
    if along:
        line = [height if flag else float("nan") for flag in marked]
        axes.plot(xs, line, linewidth=2, scalex=False, scaley=False, **style)
    axes.plot(at, [height] * len(at), marker=marker, linestyle="", scalex=False, scaley=False, **style)
