"""LAMB, and LAMB with trust-ratio clipping."""

from __future__ import annotations

from functools import partial
from typing import Literal, Self, Unpack

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from layerpace.directions import Adam
from layerpace.optim.base import Layerwise
from layerpace.optim.options import Options, only_options
from layerpace.optim.presets import LAMB_PRESETS, preset
from layerpace.rules import Clip, TrustRatio


class LambOptions(Options, total=False):
    """The keyword arguments that `LAMB` and `LAMBC` share; see `LAMB` for their meaning."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    bias_correction: bool | Literal["after"]
    eps_inside_sqrt: bool
    decay_in_norm: bool
    always_adapt: bool
    grad_averaging: bool
    zero_ratio: float | None


class LAMB(Layerwise):
    """Adam whose layers all move by a share of their norm::

        m <- beta1*m + (1 - beta1)*g
        v <- beta2*v + (1 - beta2)*g*g
        u  = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + lambda*w
        w <- w - lr * clip(phi(||w||) / ||u||) * u

    Weight decay stands inside the norm, eps outside of the root, bias correction before the ratio.
    phi(||w||) = max(||w||, min_rms*sqrt(n)).

    Args:
        params: as for any torch optimizer, or a module; see `Layerwise`.
        lr: the share of its norm by which a layer moves, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        weight_decay: lambda, >= 0.
        trust_clip: None, an upper bound of the ratio, a (lower, upper) pair, or a clip rule (`layerpace.clips`).
        bias_correction: divide the moments by 1 - beta^t; "after": multiply lr by sqrt(1 - beta2^t)/(1 - beta1^t)
            instead, which the ratio does not see, as in DeepSpeed.
        eps_inside_sqrt: sqrt(v + eps), as in algorithm 1 of the LAMBC paper.
        decay_in_norm: if not, the ratio is phi(||w||)/||u - lambda*w||, as in algorithm 1 of the LAMBC paper.
        always_adapt: if not, groups without weight decay have ratio 1, as in apex and timm.
        grad_averaging: weigh a new gradient by 1 - beta1 in m; otherwise by 1.
        zero_ratio: the ratio where ||w|| or ||u|| is zero, as other libraries have it; None: phi decides.
        **options: see `Layerwise`. Tensors with at most one dimension have plain Adam without decay by default.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.LAMB(model.parameters(), lr=2e-3, weight_decay=0.01)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference: You et al. (2019), *Large batch optimization for deep learning*, algorithm 2; *Improving layer-wise
    adaptive rate methods using trust ratio clipping*, algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        trust_clip: Clip = None,
        bias_correction: bool | Literal["after"] = True,
        eps_inside_sqrt: bool = False,
        decay_in_norm: bool = True,
        always_adapt: bool = True,
        grad_averaging: bool = True,
        zero_ratio: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        only_options(type(self).__name__, options)
        super().__init__(
            params,
            direction=Adam(
                betas=betas,
                eps=eps,
                bias_correction=bias_correction,
                grad_averaging=grad_averaging,
                eps_inside_sqrt=eps_inside_sqrt,
            ),
            rule=TrustRatio(
                clip=trust_clip,
                norm="total" if decay_in_norm else "direction",
                always_adapt=always_adapt,
                zero_ratio=zero_ratio,
            ),
            lr=lr,
            weight_decay=weight_decay,
            **options,
        )

    @classmethod
    def preset(cls, library: str) -> partial[Self]:
        """LAMB as another library has it: ``LAMB.preset("timm")(params, lr=...)``; see `layerpace.optim.presets`.

        Args:
            library: "timm", "apex", "optax" or "deepspeed".

        Raises:
            ValueError: another name.
        """
        return partial(cls, **preset("LAMB", LAMB_PRESETS, library))


class LAMBC(LAMB):
    """`LAMB` with the trust ratio clipped at 1: no layer moves faster than Adam would move it::

        w <- w - lr * min(phi(||w||) / ||u||, trust_clip) * u

    Args:
        params, lr: as in `LAMB`.
        trust_clip: an upper bound of the ratio, a (lower, upper) pair, or a clip rule; the paper tried 1, 3, 5, 10,
            and proposes what `layerpace.clips` has: "running", "tightening", "falling".
        **options: the other arguments of `LAMB`.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.LAMBC(model.parameters(), lr=1e-2)

    Reference: Fong, Chen and Chen (2020), *Improving layer-wise adaptive rate methods using trust ratio clipping*,
    eq. 3 and algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-3,
        *,
        trust_clip: Clip = 1.0,
        **options: Unpack[LambOptions],
    ) -> None:
        super().__init__(params, lr, trust_clip=trust_clip, **options)

    @classmethod
    def preset(cls, library: str) -> partial[Self]:
        """LAMBC with everything but the clip as another library has LAMB; see `LAMB.preset`.

        Raises:
            ValueError: another name than "timm", "apex", "optax" and "deepspeed".
        """
        options = {name: value for name, value in preset("LAMB", LAMB_PRESETS, library).items() if name != "trust_clip"}
        return partial(cls, **options)
