"""What a run was made with, for its folder and its report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer

from layerpace.engine.common.checks import plain
from layerpace.engine.common.fake import has_values
from layerpace.optim.base import Layerwise
from layerpace.optim.wrap import Wrapped


def settings_of(model: nn.Module, optimizers: Sequence[Optimizer], every: int) -> dict[str, Any]:
    """JSON-like: the model, the optimizers with the options of their groups, the machine."""
    params = list(model.parameters())
    devices = sorted({str(param.device) for param in params})
    return {
        "model": type(model).__name__,
        "parameters": sum(param.numel() for param in params if not is_lazy(param)),
        "dtype": ", ".join(sorted({str(param.dtype).removeprefix("torch.") for param in params})),
        "device": ", ".join(devices),
        "optimizers": [_optimizer(optimizer) for optimizer in optimizers],
        "record_every": every,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    inner = optimizer.inner if isinstance(optimizer, Wrapped) else optimizer
    out: dict[str, Any] = {"class": type(inner).__name__}
    for part in ("direction", "rule"):
        if hasattr(optimizer, part):
            out[part] = _named(getattr(optimizer, part))
    if isinstance(optimizer, (Layerwise, Wrapped)):
        own = optimizer.observed.settings
        out |= {"low_precision": own.low_precision, "nonfinite": own.nonfinite, "max_grad_norm": own.max_grad_norm}
        out["min_rms"] = own.min_rms
    out["groups"] = [
        {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        | {"tensors": len(group["params"])}
        for group in optimizer.param_groups
    ]
    return out


def _named(part: Any) -> dict[str, Any]:
    options = asdict(part) if is_dataclass(part) and not isinstance(part, type) else {}
    return {"name": type(part).__name__, **{key: _plain(value) for key, value in options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" and value.numel() == 1 and has_values(value) else "a tensor"
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = plain(value)
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
