"""The parts that have names: what ``direction="adam"`` and the command line mean by them.

The package registers its own parts here as users do theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Generic, TypeVar

from layerpace.engine.common.checks import by_name
from layerpace.engine.common.parts import Part

Kind = TypeVar("Kind", bound=Part)
Class = TypeVar("Class", bound=type[Any])


class Registry(Mapping[str, type[Kind]], Generic[Kind]):
    """{name: class} of the directions, or of the rules.

    Args:
        argument: how the argument that takes them is called, for errors.
        base: the class that all of them derive from.
    """

    def __init__(self, argument: str, base: type[Kind]) -> None:
        self._argument, self._base = argument, base
        self._classes: dict[str, type[Kind]] = {}

    def __getitem__(self, name: str) -> type[Kind]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def classes(self) -> tuple[type[Kind], ...]:
        """Each class once, in the order of registration."""
        return tuple(dict.fromkeys(self._classes.values()))

    def register(self, cls: Class) -> Class:
        """Make a class known by its ``names``; see `layerpace.directions.register`."""
        if not (isinstance(cls, type) and issubclass(cls, self._base)) or cls is self._base:
            raise TypeError(f"register takes a subclass of {self._base.__name__}, got {cls!r}")
        if not is_dataclass(cls) or "__dataclass_params__" not in vars(cls):
            raise TypeError(
                f"{cls.__name__} must be a dataclass of its own: its fields are its options; put "
                "@dataclass(frozen=True) below @register"
            )
        names: Any = vars(cls).get("names", ())
        if not isinstance(names, tuple) or not names or not all(isinstance(n, str) and n.isidentifier() for n in names):
            raise ValueError(
                f"{cls.__name__}.names must be a tuple of identifiers such as ('lion',), its own, got {names!r}"
            )
        for name in names:
            other = self._classes.get(name)
            if other is not None and _place(other) != _place(cls):  # a notebook's cell may run twice
                raise ValueError(
                    f"{self._argument} {name!r} is {_place(other)} already; {_place(cls)} needs another name"
                )
        self._classes |= dict.fromkeys(names, cls)
        return cls

    def part(self, part: str | Kind) -> Kind:
        """The part of that name with its defaults, or the part itself.

        Raises:
            ValueError: an unknown name.
            TypeError: neither a name nor an instance.
        """
        return by_name(self._argument, part, self._base, self)


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
