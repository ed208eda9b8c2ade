"""The lines of records.jsonl, each a JSON object.

A key line introduces a set of keys; ``stride`` says which of its records are kept, every 1st, 2nd, 4th, ...; it is left
out while all are::

    {"set": 0, "keys": ["relative_update_l1/conv1.weight", ...], "stride": 2}

A record line has the values in that order, to 7 significant digits. null is nan; 1e999, which is JSON too, is read as
infinity by every parser that rounds::

    {"set": 0, "step": 10, "time": 1763708400.123, "values": [0.00123,null,1e999]}

Count lines end a file that was closed, one for each set with a stride: how many records there were, kept or not, and
the step of the last::

    {"set": 0, "seen": 1234, "step": 12340}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from layerpace.engine.backends.cpu import native

# Enough to know a line without parsing its values.
HEAD = re.compile(
    rb'\{"set": (?P<set>\d+), '
    rb'(?:"step": (?P<step>-?\d+), "time": (?P<time>-?[\d.]+), "values": (?=\[)|"(?P<kind>keys|seen)": )'
)


def format_values(values: Tensor) -> str:
    """[K] -> K numbers of JSON between commas, to 7 significant digits; nan is null, infinity 1e999."""
    values = values.detach().to("cpu", torch.float64).contiguous()
    formatted = getattr(native(), "format_numbers", None)  # not every C++ compiler has what it needs
    return str(formatted(values)) if formatted is not None else _formatted(values)


def _formatted(values: Tensor) -> str:
    # One % for all is 1.3 times faster than a format each, and 4 times than json.dumps of rounded numbers.
    text = ("%.7g," * len(values) % tuple(values.tolist()))[:-1]
    # No other number has an n in it.
    return text.replace("nan", "null").replace("inf", "1e999") if "n" in text else text


def key_line(number: int, keys: Sequence[str], stride: int) -> str:
    """The line that introduces a set."""
    thinned = {"stride": stride} if stride > 1 else {}
    return json.dumps({"set": number, "keys": list(keys), **thinned}) + "\n"


def record_line(number: int, step: int, time: float, values: Tensor) -> str:
    """The line of a record; the time is in seconds, values are [K]."""
    return f'{{"set": {number}, "step": {step}, "time": {time:.3f}, "values": [{format_values(values)}]}}\n'


def count_line(number: int, seen: int, step: int) -> str:
    """The line that says how many records of a set there were, the last of them at ``step``."""
    return f'{{"set": {number}, "seen": {seen}, "step": {step}}}\n'
