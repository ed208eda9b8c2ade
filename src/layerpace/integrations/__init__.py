"""One line to watch a training that another library runs.

    Trainer(callbacks=[layerpace.integrations.lightning.LayerMonitor()])
    Trainer(callbacks=[layerpace.integrations.transformers.LayerMonitorCallback()])

The library is imported with the module here that is named after it, which is imported when it is used.
"""

from importlib import import_module
from types import ModuleType

__all__ = ["lightning", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
