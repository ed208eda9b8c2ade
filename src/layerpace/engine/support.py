"""What tensors a step can take."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.engine.entries import Settings
from layerpace.engine.sharding.collectives import check_placements
from layerpace.layers.base import ParameterLayers, is_lazy


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, as torch.optim treats them."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def real_shape(tensor: Tensor) -> torch.Size:
    """Shape of a weight as real numbers: two of them for a complex one."""
    return torch.Size((*tensor.shape, 2)) if tensor.is_complex() else tensor.shape


def check_shaped(param: Tensor, where: str) -> None:
    """Raise ValueError for a parameter that state is to be loaded for, and that has no shape yet."""
    if is_lazy(param):
        raise ValueError(
            f"{where} belongs to a lazy module and has no shape yet, which its state must fit: call the model once "
            "before state is loaded"
        )


def check_supported(param: Tensor, grad: Tensor, name: str) -> None:
    """Raise RuntimeError for tensors that a step cannot treat rightly."""
    which = repr(name) if name else f"a parameter of shape {tuple(param.shape)}"
    check_placements(param, which)
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"the gradient of {which} is sparse ({grad.layout}), and the sums over a layer need all of it: "
            "use sparse=False in the embedding"
        )
    if not (param.is_floating_point() or param.is_complex()):
        raise RuntimeError(f"{which} has dtype {param.dtype}; weights must be floating point or complex")
    if grad.shape != param.shape or grad.device != param.device or grad.is_complex() != param.is_complex():
        raise RuntimeError(
            f"the gradient of {which} has shape {tuple(grad.shape)} ({grad.dtype}, {grad.device}), and the parameter "
            f"{tuple(param.shape)} ({param.dtype}, {param.device}): it was exchanged after backward(). Call "
            "zero_grad() and backward() again"
        )


def step_device(layers: ParameterLayers, param: Tensor, settings: Settings | None = None) -> torch.device:
    """Where a step count lives: on the host, as in torch, unless the device decides who steps or it differs by row."""
    by_device = settings is not None and (settings.nonfinite == "skip" or settings.capturable)
    return param.device if layers.sizes is not None or by_device else torch.device("cpu")


def captures_graph() -> bool:
    """Whether what is launched now goes into a CUDA graph."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()
