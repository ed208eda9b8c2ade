"""What a file of records holds, without parsing its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from layerpace.engine.common.files import FileError, open_regular, parse_json, shortened
from layerpace.monitors.sinks.text import HEAD


@dataclass
class Lines:
    """Of a set: its keys and stride, the step of each line, and what its count line says: (seen, step of the last)."""

    keys: tuple[str, ...]
    stride: int
    steps: list[int] = field(default_factory=list)
    count: tuple[int, int] | None = None


@dataclass
class Found:
    """Sets that have records, by number; ``trailing``: there are lines that serve no record, or a torn one.

    ``damaged`` says how many lines are none of records, and which is the first of them; "": none is.
    """

    sets: dict[int, Lines] = field(default_factory=dict)
    trailing: bool = False
    damaged: str = ""


def scan(path: Path) -> Found:
    """Read the beginning of each line.

    Raises:
        FileError: no line is one of `layerpace.monitors.sinks.text`, or the file cannot be read; a torn line at the end
            is overlooked.
    """
    found = Found()
    first, lines, damaged = "", 0, 0
    with open_regular(path) as file:
        for line in file:
            if not line.endswith(b"\n"):
                found.trailing = True
                break
            lines += 1
            try:
                _take(line, found)
            except (ValueError, KeyError):
                damaged += 1
                first = first or f"line {lines}: not a line of records: {shortened(line[:80])}"
    if damaged:
        if damaged == lines:
            raise FileError(f"{path}, {first}")
        found.damaged, found.trailing = f"{damaged} of {lines} lines are damaged; {first}", True
    found.trailing |= not all(lines.steps for lines in found.sets.values())
    found.sets = {number: lines for number, lines in found.sets.items() if lines.steps}
    return found


def _take(line: bytes, found: Found) -> None:
    """What one line tells.

    Raises:
        ValueError, KeyError: it is none of records.
    """
    head = HEAD.match(line)
    if head is None:
        raise ValueError
    number = int(head["set"])
    if head["step"] is not None:
        found.sets[number].steps.append(int(head["step"]))
        return
    content = parse_json(line, "", lines=False)
    if head["kind"] == b"keys":
        keys = tuple(key.text() for key in content["keys"].items())
        stride = content.get("stride")
        found.sets[number] = Lines(keys, 1 if stride is None else stride.whole(1))
    else:
        found.sets[number].count = content["seen"].whole(0), content["step"].whole()
        found.trailing = True


def seen_at(steps: Sequence[int], stride: int, seen: int, step: int) -> int:
    """How many records of a set there had been after a step.

    Args:
        steps: of the records 0, stride, 2 * stride, ..., the only ones whose steps are known.
        seen: how many there are in all.
        step: a step.

    Returns:
        The number; between two steps that are known, records are taken to lie at equal distances.
    """
    kept = next((place for place, recorded in enumerate(steps) if recorded > step), len(steps))
    if kept == 0:
        return 0
    least, most = (kept - 1) * stride + 1, min(kept * stride, seen)
    if kept < len(steps):  # back from the next one; distances after it are more regular than those from step 1
        near = steps[kept : kept + 2] if kept + 1 < len(steps) else steps[kept - 1 : kept + 1]
        distance = (near[1] - near[0]) / stride
        between = math.ceil((steps[kept] - step) / distance) - 1 if distance > 0 else stride
        return max(least, min(most, kept * stride - between))
    distance = (steps[-1] - steps[-2]) / stride if kept > 1 else 0
    return min(most, least + int((step - steps[-1]) / distance)) if distance > 0 else least
