"""Signatures that name every keyword, for those who read them: help(), editors, configuration files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, Unpack, get_args, get_origin, get_type_hints


def name_options(cls: type) -> None:
    """Name the keywords of ``**options: Unpack[...]`` in the signature of a class's ``__init__``.

    Type and default of each are those of the base class, to which they are handed on. Without this, who reads
    signatures sees ``**options``, or, as jsonargparse does, takes all that the base class knows for it.
    """
    init = cls.__dict__.get("__init__")
    if init is None:
        return
    for name, parameter in inspect.signature(init).parameters.items():
        kind = _hints(init).get(name) if parameter.kind is parameter.VAR_KEYWORD else None
        if get_origin(kind) is Unpack:
            name_keywords(init, super(cls, cls).__init__, get_type_hints(get_args(kind)[0]))  # type: ignore[arg-type]


def name_keywords(function: Callable[..., Any], source: Callable[..., Any], names: Collection[str]) -> None:
    """Give ``function`` a signature that has, in the place of ``**options``, the keywords ``names`` of ``source``."""
    own, others = inspect.signature(function), inspect.signature(source)
    known = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = [p.replace(kind=p.KEYWORD_ONLY) for name, p in others.parameters.items() if name in names]
    parameters = [*_evaluated(function, known), *_evaluated(source, named)]
    function.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]


def _evaluated(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """With types in the place of their text, which means nothing in another module."""
    hints = _hints(function)
    return [
        p.replace(annotation=hints.get(p.name, p.annotation)) if isinstance(p.annotation, str) else p
        for p in parameters
    ]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # imported for type checkers alone
        return {}
