"""Every layer turns by the same angle: Layca."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from layerpace.engine.numerics.columns import Table
from layerpace.rules.base import Coefficients, Layers, RuleState
from layerpace.rules.norms import NormKeeper


@dataclass(frozen=True)
class Rotation(NormKeeper):
    """Every layer turns by the angle atan(lr) and keeps its norm: Layca::

        s = u - (<u,w> / <w,w>)*w                   1: the part of the step orthogonal to w
        s <- s * phi(||w||) / ||s||                 2: as long as w
        w <- w - lr*s                               3
        w <- w * phi(||w_0||) / ||w||               4: back on the sphere of the first weights

    One pass suffices. With p = <w,u>/<w,w>, ||s||^2 = <u,u> - <w,u>^2/<w,w> and k = lr*phi(||w||)/||s||, steps 1 to
    3 give w - k*s, and s is orthogonal to w, so that its norm is sqrt(<w,w> + k^2*||s||^2). With q the quotient
    of step 4, c = 1 - q*(1 + k*p) and b = q*k.

    Where u is parallel to w to rounding (||s||^2 <= 1e-12*||u||^2), and where lr = 0, the layer does not move.
    lr is the tangent of the angle, in radians for small ones. Decoupled decay along w would be projected out. A
    tensor of zeros is put on the sphere of RMS min_rms by its first step, whatever lr, and stays on it: leave
    tensors that start at zero and must grow (the last layer of a residual branch, LoRA's B) out by ``exclude``.

    Reference: *An experimental study of layer-level training speed* (2019), algorithm 1.
    """

    names: ClassVar[tuple[str, ...]] = ("rotation",)
    PARALLEL: ClassVar[float] = 1e-12

    def __call__(self, row: Table, layers: Layers, state: RuleState) -> Coefficients:
        ww, uu, wu = row["ww"], row["uu"], row["wu"]
        p = torch.where(ww == 0, 0.0, wu / ww)
        ss = uu - p * wu
        ratio = layers.phi(ww) / ss.sqrt()
        k = layers.lr * ratio
        still = (ss <= self.PARALLEL * uu) | (k == 0)
        q = state["initial_norm"] / (ww + k**2 * ss).sqrt()
        zero = torch.zeros_like(k)
        return Coefficients(
            c=torch.where(still, zero, 1 - q * (1 + k * p)),
            b=torch.where(still, zero, q * k),
            ratio=torch.where(still, zero, ratio),
        )
