"""What the processes of a distributed run tell each other about its monitor; rank 0 writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def writes() -> bool:
    """Whether this process writes: rank 0 alone does in a distributed run."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def gather(param: Any) -> Tensor:
    """All of a DTensor, on every process; all must call it."""
    with torch.no_grad():
        whole: Tensor = param.full_tensor()
    return whole


def from_writer(value: Any) -> Any:
    """What rank 0 has, a picklable value; all processes must call it."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def spread_out(whole: Tensor | None, param: Any) -> Tensor:
    """A tensor that rank 0 has, on every process; all must call it.

    Args:
        whole: of rank 0; on other ranks None.
        param: the DTensor that it belongs to, for the device over which its processes talk.
    """
    described = from_writer(None if whole is None else (whole.shape, whole.dtype))
    device = param.device_mesh.device_type
    tensor = torch.empty(described[0], dtype=described[1], device=device) if whole is None else whole.to(device)
    torch.distributed.broadcast(tensor, src=0)
    return tensor
