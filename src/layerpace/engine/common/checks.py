"""Checks of hyperparameters: one place for what counts as a number, and for the wording of a range error.

An option that takes a number takes what Python and numpy call one: an int, a float, a Fraction, a Decimal, a scalar of
numpy, an array without dimensions. What is kept is Python's own number, so that saved states open with
``weights_only=True`` and kernels get what they expect. A tensor with one element on the CPU is a number, too; that of a
learning rate alone may live on another device, and stays a tensor, since its owner writes other values into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, TypeVar

from torch import Tensor

from layerpace.engine.common.fake import has_values
from layerpace.engine.common.parts import Part, described

Kind = TypeVar("Kind", bound=Part)

_PLAIN = frozenset({bool, int, float, str, type(None)})


def plain(value: Any) -> Any:
    """Numbers of numpy and of Python's ``numbers`` as Python's own, in tuples and lists too; all else as it is."""
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of numpy, an array without dimensions
        value = value.item()
    try:
        if isinstance(value, Integral):
            return value if isinstance(value, bool) else int(value)
        return float(value) if isinstance(value, (Real, Decimal)) else value
    except (ValueError, OverflowError):  # a signalling nan, a fraction beyond all floats
        return value


def is_plain(value: Any) -> bool:
    """Whether it is one of Python's own numbers, a text, None, or a tuple of these: it cannot change by itself."""
    return type(value) in _PLAIN or (type(value) is tuple and all(type(item) in _PLAIN for item in value))


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
) -> Any:
    """The number, as Python's own; an error unless it is one of the range.

    nan is outside of every range, and inf too unless ``infinite``. A tensor with one element is returned as it is. One
    that lives on an accelerator is not read: that would make the step wait for the device.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is outside of the range, or a tensor of several elements; the message has the value and
            the range.
    """
    number = value
    if type(value) is not float:
        value = plain(value)
        if isinstance(value, Tensor):
            _check_single(name, value)
            if value.device.type != "cpu" or not has_values(value):
                return value
        try:
            if isinstance(value, (str, bytes)) or _several(value):
                raise TypeError
            number = float(value)
        except OverflowError:
            number = math.nan
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be a number, got {value!r}") from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below and (infinite or math.isfinite(number))):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
        raise ValueError(f"{name} must be in {interval}, got {value!r}")
    return value if type(value) in _PLAIN or isinstance(value, Tensor) else number


def _several(value: Any) -> bool:
    """Whether it is an array with dimensions, whose only entry older versions of numpy take for a number."""
    return not isinstance(value, Tensor) and getattr(value, "shape", ()) != ()


def _check_single(name: str, value: Tensor) -> None:
    if value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor with one element, got shape {tuple(value.shape)}")
    if value.is_complex():
        raise TypeError(f"{name} must be a number, got a tensor of {value.dtype}")


def read_number(name: str, value: Any) -> Any:
    """The value of a tensor with one element as a number; all else as it is.

    Raises:
        ValueError: a tensor of several elements, or on an accelerator, which must not be waited for.
    """
    if not isinstance(value, Tensor):
        return value
    if value.device.type != "cpu":
        raise ValueError(
            f"{name} must be a number or a tensor on the CPU, got a tensor on {value.device}: "
            "the step would wait for that device"
        )
    _check_single(name, value)
    return value.item()


def check_number(name: str, value: Any, low: float, high: float = math.inf, **kind: bool) -> Any:
    """`check_range` of a number that the host must know: the value of a tensor is read."""
    return check_range(name, value if type(value) is float else read_number(name, value), low, high, **kind)


def check_betas(betas: Any) -> tuple[Any, Any]:
    """The pair of numbers in [0, 1), as Python's own.

    Raises:
        ValueError: not a pair, or one of them is out of range.
    """
    values = pair(betas)
    if values is None:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    first, second = (check_number(f"betas[{k}]", beta, 0, 1, open_high=True) for k, beta in enumerate(values))
    return first, second


def pair(values: Any) -> tuple[Any, Any] | None:
    """The two items of a tuple, a list or an array; None: it is none of them, or has another number of items."""
    if not isinstance(values, Tensor) and len(getattr(values, "shape", ())) == 1:
        values = values.tolist()
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        return None
    return values[0], values[1]


def check_flag(name: str, value: Any, *, or_text: str = "") -> Any:
    """True or False, as Python's own; numpy's and 1 and 0 count, and so does the text ``or_text``.

    Raises:
        TypeError: something else: the text "false" would count as true.
        ValueError: another text than ``or_text``, or another number.
    """
    if type(value) is bool:
        return value
    value = read_number(name, plain(value))
    if or_text and isinstance(value, str) and value == or_text:
        return or_text
    if isinstance(value, (bool, int, float)) and value in (False, True):
        return bool(value)
    error = ValueError if isinstance(value, (int, float)) or (or_text and isinstance(value, str)) else TypeError
    raise error(f"{name} must be {f'True, False or {or_text!r}' if or_text else 'True or False'}, got {value!r}")


def check_whole(name: str, value: Any, least: int = 0) -> int:
    """The whole number of at least ``least``, as Python's own int.

    Raises:
        TypeError: not a whole number, such as 1.5 or True.
        ValueError: below ``least``.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def keep_range(part: Any, field: str, low: float, high: float = math.inf, *, name: str = "", **kind: bool) -> None:
    """`check_range` of a field of a frozen dataclass, which is Python's own number from then on.

    Args:
        part: the instance, in its ``__post_init__``.
        field: of it.
        low, high, kind: see `check_range`.
        name: what the user calls the field, if not by its name.
    """
    name = name or field
    object.__setattr__(part, field, check_number(name, getattr(part, field), low, high, **kind))


def keep_flag(part: Any, *fields: str, or_text: str = "") -> None:
    """`check_flag` of fields of a frozen dataclass, which are bools from then on."""
    for field in fields:
        object.__setattr__(part, field, check_flag(field, getattr(part, field), or_text=or_text))


def keep_betas(part: Any) -> None:
    """`check_betas` of a frozen dataclass's ``betas``, which is a tuple from then on."""
    object.__setattr__(part, "betas", check_betas(part.betas))


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def by_name(argument: str, value: Any, kind: type[Kind], table: Mapping[str, type[Kind]]) -> Kind:
    """The part of that name with its defaults, ``value`` itself if it is one, or what it describes (`described`).

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor an instance; a class is not an instance.
    """
    value = described(value, argument)
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        example = next(iter(table.values())).__name__
        raise TypeError(f"{argument} must be a name or an instance such as {argument}s.{example}(), got {value!r}")
    check_choice(argument, value, tuple(table))
    return table[value]()
