"""LARS: every layer's gradient step is a share of its norm."""

from __future__ import annotations

from functools import partial
from typing import Literal, Self, Unpack

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from layerpace.directions import SGD
from layerpace.optim.base import Layerwise
from layerpace.optim.options import Options, only_options
from layerpace.optim.presets import LARS_PRESETS, preset
from layerpace.rules import Clip, TrustRatio


class LARS(Layerwise):
    """Layer-wise adaptive rate scaling: momentum SGD whose layers all move by a share of their norm::

        r = clip(trust_coefficient * phi(||w||) / (||g|| + lambda*||w|| + eps))
        d = lr * r * (g + lambda*w)
        v <- momentum*v + (1 - dampening)*d
        w <- w - v                              with nesterov: w <- w - (momentum*v + d)

    The ratio is taken of the raw gradient, before momentum; weight decay stands inside the ratio; lr stands inside
    the velocity, as in the papers, so that a change of lr does not rescale steps that were taken before. The first
    velocity is d. phi(||w||) = max(||w||, min_rms*sqrt(n)).

    So a rate of 0 does not stop the weights: they move on by what the velocity holds, mu/(1 - mu) times the last step
    in all (9 steps at 0.9). Stop training when a schedule has come to 0, end it above 0 (``floor``), or pass
    ``lr_in_velocity=False``.

    Args:
        params: as for any torch optimizer, or a module; see `Layerwise`.
        lr: learning rate, >= 0. With the default trust coefficient of 1e-3 a layer moves by about lr/1000 of its
            norm in a step before momentum: good rates are far above SGD's.
        momentum: mu, in [0, 1).
        nesterov: see above.
        weight_decay: lambda, >= 0.
        trust_coefficient: > 0.
        trust_clip: None, an upper bound of r, a (lower, upper) pair, or a clip rule such as
            ``layerpace.rules.LARCClip()``, min(r/lr, 1); or its text, see `layerpace.clips`.
        eps: >= 0, units of the gradient's norm.
        dampening: in [0, 1].
        norm: "total" has ||g + lambda*w|| in the denominator, as optax.
        lr_in_velocity: if not, v is made of d/lr, and w <- w - lr*v, as in timm.
        always_adapt: if not, groups without weight decay are plain momentum SGD, as in timm.
        zero_ratio: the ratio where ||w|| or ||g|| is zero, as other libraries have it; None: phi decides.
        **options: see `Layerwise`. Tensors with at most one dimension have plain momentum SGD by default.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.LARS(model.parameters(), lr=4.8, weight_decay=1e-6)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference: You, Gitman and Ginsburg (2017), *Large batch training of convolutional networks*, algorithm 1;
    *Improving layer-wise adaptive rate methods using trust ratio clipping*, eq. 2.
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        trust_clip: Clip = None,
        eps: float = 1e-8,
        dampening: float = 0.0,
        norm: Literal["sum", "total"] = "sum",
        lr_in_velocity: bool = True,
        always_adapt: bool = True,
        zero_ratio: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        only_options(type(self).__name__, options)
        super().__init__(
            params,
            direction=SGD(),
            rule=TrustRatio(trust_coefficient, trust_clip, eps, norm, always_adapt, zero_ratio),
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            lr_in_velocity=lr_in_velocity,
            **options,
        )

    @classmethod
    def preset(cls, library: str) -> partial[Self]:
        """LARS as another library has it: ``LARS.preset("timm")(params, lr=...)``; see `layerpace.optim.presets`.

        Args:
            library: "timm", "apex" (LARC around SGD), "optax" or "lightning-bolts".

        Raises:
            ValueError: another name.
        """
        return partial(cls, **preset("LARS", LARS_PRESETS, library))
