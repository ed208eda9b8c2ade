"""The quantities of a layer, recomputed in float64 from copies of its weights, by other formulas than the monitor's."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flat(x: Tensor) -> Tensor:
    return torch.view_as_real(x).double().reshape(-1) if x.is_complex() else x.detach().double().reshape(-1).clone()


def angle(a: Tensor, b: Tensor) -> float:
    """Between two vectors, by Kahan's formula, which keeps its digits for small angles; nan where one is zero."""
    if not a.norm() or not b.norm():
        return math.nan
    a, b = a / a.norm(), b / b.norm()
    return 2 * math.atan2((a - b).norm().item(), (a + b).norm().item())


def quantities(old: Tensor, new: Tensor, grad: Tensor, initial: Tensor) -> dict[str, float]:
    """What a monitor says of a step from ``old`` to ``new``."""
    w, v, g, start = flat(old), flat(new), flat(grad), flat(initial)
    d = w - v
    return {
        "relative_update_l1": (d.abs().sum() / w.abs().sum()).item(),
        "relative_update_l2": (d.norm() / w.norm()).item(),
        "rotation_angle": angle(w, v),
        "weight_norm": w.norm().item(),
        "grad_norm": g.norm().item(),
        "update_norm": d.norm().item(),
        # 1 - cos(x) = 2 sin^2(x/2)
        "cosine_distance": 2 * math.sin(angle(v, start) / 2) ** 2,
    }


def assert_close(
    got: dict[str, float], expected: dict[str, float], rtol: float = 1e-6, atol: dict[str, float] | None = None
) -> None:
    """Equal to ``rtol``; what is not defined is left out of ``got``."""
    for name, value in expected.items():
        if math.isnan(value) or math.isinf(value):
            assert name not in got, name
        else:
            least = (atol or {}).get(name, 0.0)
            assert math.isclose(got[name], value, rel_tol=rtol, abs_tol=least), (name, got[name], value)
