"""What an optimizer tells a GradScaler, and nobody else."""

from __future__ import annotations

import sys
from typing import Any

from torch.amp import GradScaler


class ForScalers:
    """True where a `torch.amp.GradScaler` reads it, False for everyone else.

    As ``_step_supports_amp_scaling`` it lets a GradScaler hand over its scale and its ``found_inf`` instead of waiting
    for the device to decide. Others read the same attribute as "gradients cannot be clipped before the step", which is
    true of torch's fused kernels alone: Lightning refuses ``gradient_clip_val`` then, also where nothing is scaled. An
    optimizer of ours takes gradients that were unscaled and clipped before as well as scaled ones.

    Not a property, so that an instance can be given a plain value in its place.
    """

    def __get__(self, optimizer: Any, owner: type | None = None) -> bool:
        # A wrapper that passes attributes on is no scaler: what a scaler leaves on it would not come here.
        return isinstance(sys._getframe(1).f_locals.get("self"), GradScaler)
