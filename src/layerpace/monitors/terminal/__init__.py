"""A run in the terminal: ``layerpace watch RUN`` (``pip install 'layerpace[report]'``)."""

from __future__ import annotations

from .snapshot import WatchError
from .watch import watch

__all__ = ["WatchError", "watch"]
