"""A tensor on its way to the host, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class Transfer:
    """Starts to copy a tensor to the host; ``get`` waits for the copy, which has mostly arrived by then."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.Event | None = None
        if values.device.type == "cpu":
            self._host = values
            return
        self._host = torch.empty(
            values.shape, dtype=values.dtype, device="cpu", pin_memory=values.device.type == "cuda"
        )
        self._host.copy_(values, non_blocking=True)
        self._event = torch.Event(values.device)
        self._event.record()

    @property
    def ready(self) -> bool:
        """Whether ``get`` returns at once."""
        return self._event is None or self._event.query()

    def get(self) -> Tensor:
        """The values, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
