"""What a monitor tells of a layer, and how it follows from sums over the layer.

With W the weights before a step, W' those after it, W0 the initial ones, D = W - W' and G the gradient:

==============================  ====================================================================================
``relative_update_l1``          |D|_1 / |W|_1
``relative_update_l2``          ||D|| / ||W||
``rotation_angle``              radians, the angle between W and W'
``cosine_distance``             1 - <W', W0> / (||W'|| ||W0||), in [0, 2]: the layer rotation curve
``trust_ratio``                 the factor that the rule put on lr, after clipping
``trust_ratio_unclipped``       the same before clipping
``weight_norm``                 ||W||
``grad_norm``                   ||G||, without loss scale and weight decay
``update_norm``                 ||D||
``second_moment_p10`` ...       percentiles 10, 50 and 90 over the layer's entries of the optimizer's second moment
``silhouette``                  silhouette score of the feedback against the classes, in [-1, 1]
``learning_rate``               of the layer in this step, its multiplier included
==============================  ====================================================================================

D is what was subtracted from the weights in memory, rounding included, whatever made it: momentum, weight decay,
a clip. nan says that a quantity was not measured or is not defined (the relative update of a layer of zeros), inf that
it was measured and is not finite.

Sources: relative updates, Abu-El-Haija, *Proportionate gradient updates with PercentDelta* (2017), eq. 1 and figure 1;
rotation, percentiles and silhouette, *An experimental study of layer-level training speed* (2019), section 3.1,
figures 11 and 7; trust ratios, Fong, Chen and Chen (2020), eq. 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerpace.engine.numerics.columns import MEASURED

UPDATES = ("relative_update_l1", "relative_update_l2", "rotation_angle", "weight_norm", "grad_norm", "update_norm")
RATIOS = ("trust_ratio", "trust_ratio_unclipped")
PERCENTILES = (10, 50, 90)
SECOND_MOMENT = tuple(f"second_moment_p{percent}" for percent in PERCENTILES)
RATE = "learning_rate"
# Not read in every record.
OCCASIONAL = ("cosine_distance", *SECOND_MOMENT, "silhouette")
QUANTITIES = (*UPDATES[:3], "cosine_distance", *RATIOS, *UPDATES[3:], *SECOND_MOMENT, "silhouette", RATE)


def from_sums(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The quantities of ``UPDATES``.

    Args:
        sums: those of `layerpace.columns.MEASURED`, float64 tensors of one shape.

    Returns:
        float64 tensors of that shape.
    """
    ww, w_l1, gg, dd, wd, d_l1 = (sums[name] for name in MEASURED)
    # sin and cos of the angle, each times ||W|| ||W'||; rounding may leave the first a little below zero.
    sine = (ww * dd - wd * wd).clamp(min=0).sqrt()
    return {
        "relative_update_l1": _share(d_l1, w_l1),
        "relative_update_l2": _share(dd.sqrt(), ww.sqrt()),
        "rotation_angle": _told(torch.where(ww == 0, torch.nan, torch.atan2(sine, ww - wd)), ww, dd),
        "weight_norm": _told(ww.sqrt(), ww),
        "grad_norm": _told(gg.sqrt(), gg),
        "update_norm": _told(dd.sqrt(), dd),
    }


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return _told(torch.where(whole == 0, torch.nan, part / whole), part, whole)


def _told(quantity: Tensor, *sums: Tensor) -> Tensor:
    """inf where a sum is not finite."""
    for x in sums:
        quantity = torch.where(torch.isfinite(x), quantity, torch.inf)
    return quantity


def cosine_distance(sums: Mapping[str, Tensor]) -> Tensor:
    """1 - cos of the angle between w and w - d, from <w, w>, <w, d> and <d, d>; nan where either is zero."""
    ww, wd, dd = sums["ww"], sums["wd"], sums["dd"]
    size = (ww * (ww - 2 * wd + dd).clamp(min=0)).sqrt()
    return _told(torch.where(size == 0, torch.nan, 1 - (ww - wd) / size), ww, dd)
