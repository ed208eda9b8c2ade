r"""LARS and LAMB as other libraries have them, so that a user can move over without retuning.

Every method of that name makes choices that the papers leave open, and a tuned learning rate belongs to them.

LAMB, by library:

=====================  ==============  ==============  ==============  ===========================
\                      timm            apex            optax           deepspeed
=====================  ==============  ==============  ==============  ===========================
decay in the norm      yes             yes             yes             yes
default weight decay   0.01            0.01            0               0
eps                    1e-6, outside   1e-6, outside   1e-6, outside   1e-8, outside, of raw sqrt(v)
bias correction        before ratio    before ratio    before ratio    after the ratio, on lr
decay 0 in a group     ratio 1         ratio 1         adapts          adapts
zero norm              ratio 1         ratio 1         ratio 1         ratio 1
trust clip             none            none            none            (0.01, 10)
1-D tensors            like others     like others     like others     like others
global gradient clip   1.0             1.0             none            none
=====================  ==============  ==============  ==============  ===========================

LARS, by library:

=====================  ==================  ==================  ==============  ==================
\                      timm                apex (LARC)         optax           lightning-bolts
=====================  ==================  ==================  ==============  ==================
denominator            |g| + lambda*|w|    |g| + lambda*|w|    |g + lambda*w|  |g| + lambda*|w|
trust coefficient      1e-3                0.02                1e-3            1e-3
eps                    1e-8                1e-8                0               1e-8
momentum               0                   0                   0.9             0
lr                     outside velocity    outside velocity    inside          outside velocity
decay 0 in a group     plain SGD           adapts              adapts          plain SGD
zero norm              ratio 1             ratio 1             ratio 1         ratio 1
clip                   none                min(ratio/lr, 1)    none            none
1-D tensors            like others         like others         like others     like others
=====================  ==================  ==================  ==============  ==================

What a preset does not copy: apex's LARC and lightning-bolts drop the weight decay of a layer whose gradient or weights
are exactly zero; with ``dampening`` other libraries do not dampen the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerpace.engine.common.checks import check_choice
from layerpace.rules import LARCClip

# No floor under the norm, ratio 1 for a layer of zeros, and no tensor left out: what the libraries share.
_PLAIN: dict[str, Any] = {"exclude": None, "min_rms": 0.0, "zero_ratio": 1.0}

LAMB_PRESETS: dict[str, dict[str, Any]] = {
    "timm": _PLAIN | {"weight_decay": 0.01, "always_adapt": False, "max_grad_norm": 1.0},
    "apex": _PLAIN | {"weight_decay": 0.01, "always_adapt": False, "max_grad_norm": 1.0},
    "optax": _PLAIN,
    "deepspeed": _PLAIN | {"eps": 1e-8, "trust_clip": (0.01, 10.0), "bias_correction": "after"},
}

LARS_PRESETS: dict[str, dict[str, Any]] = {
    "timm": _PLAIN | {"momentum": 0.0, "always_adapt": False, "lr_in_velocity": False},
    "apex": _PLAIN | {"momentum": 0.0, "trust_coefficient": 0.02, "trust_clip": LARCClip(), "lr_in_velocity": False},
    "optax": _PLAIN | {"eps": 0.0, "norm": "total"},
    "lightning-bolts": _PLAIN | {"momentum": 0.0, "always_adapt": False, "lr_in_velocity": False},
}


def preset(method: str, presets: Mapping[str, Mapping[str, Any]], library: str) -> dict[str, Any]:
    """The keyword arguments of a library's form of a method; ValueError for a library that is not in the table."""
    check_choice(f"the library of {method}.preset", library, tuple(presets))
    return dict(presets[library])
