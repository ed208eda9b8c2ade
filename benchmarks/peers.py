"""Optimizers of other libraries, if `make bench-peers` has put them where Python finds them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any

PACKAGES = ("timm", "pytorch_optimizer")


class MissingPeer(ImportError):
    """A library that is not there; the message says what installs it."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is not installed: make bench-peers")


def timm(module: str, name: str) -> Any:
    """A class of a module of timm.optim.

    `import timm` wants torchvision for its models. The optimizers' own files need nothing but torch, so they are
    imported past the __init__ of the two packages around them.
    """
    if not any(package in sys.modules for package in ("timm", "timm.optim")):
        spec = importlib.util.find_spec("timm")
        if spec is None or not spec.submodule_search_locations:
            raise MissingPeer("timm")
        for package, folder in (("timm", ""), ("timm.optim", "/optim")):
            shell = ModuleType(package)
            shell.__path__ = [place + folder for place in spec.submodule_search_locations]
            sys.modules[package] = shell
    return getattr(importlib.import_module(f"timm.optim.{module}"), name)


def pytorch_optimizer(name: str) -> Any:
    """A class of pytorch_optimizer."""
    if importlib.util.find_spec("pytorch_optimizer") is None:
        raise MissingPeer("pytorch_optimizer")
    return getattr(importlib.import_module("pytorch_optimizer"), name)


def versions() -> dict[str, str | None]:
    """Version of each library; None: not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
