"""What an argument takes by name, as an instance, or as a configuration file describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class Part:
    """The base of directions, rules and clip rules.

    Not a dataclass, as they are: jsonargparse takes a type that has dataclasses for bases alone as closed, and accepts
    no subclass of it by its class path.
    """


def described(value: Any, argument: str, make: Callable[..., Any] | None = None) -> Any:
    """What {"class_path": "layerpace.directions.RAdam", "init_args": {"eps": 1e-8}} describes; else the value itself.

    LightningCLI hands the arguments of an optimizer over like this: it makes the optimizer, and nothing inside of it.
    With ``make`` that makes the value of the class and its arguments.

    Raises:
        ValueError: no such class, or another key.
        TypeError: arguments that the class does not take.
    """
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    path = value["class_path"]
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    others = set(value) - {"class_path", "init_args"}
    try:
        cls = None if others else getattr(import_module(module), name)
    except (ValueError, ModuleNotFoundError, AttributeError):
        cls = None
    if not isinstance(cls, type):
        raise ValueError(
            f"{argument}: {dict(value)!r} must have the path of a class, such as layerpace.directions.RAdam, under "
            "class_path, its arguments under init_args, and nothing else"
        )
    arguments = {
        key: tuple(item) if isinstance(item, list) else described(item, f"{argument}, {key}")
        for key, item in (value.get("init_args") or {}).items()
    }
    return cls(**arguments) if make is None else make(cls, **arguments)
