"""What a file of records holds, without parsing its values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """Sets that have records, by number; ``trailing``: there are lines that serve no record, or a torn one."""

    sets: dict[int, Lines] = field(default_factory=dict)
    trailing: bool = False


def scan(path: Path) -> Found:
    """Read the beginning of each line.

    Raises:
        ValueError: a line that is none of `layerpace.monitors.sinks.text`; a torn one at the end is overlooked.
    """
    found = Found()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                found.trailing = True
                break
            head = HEAD.match(line)
            try:
                if head is None:
                    raise ValueError
                if head["step"] is not None:
                    found.sets[int(head["set"])].steps.append(int(head["step"]))
                    continue
                content = json.loads(line)
                if head["kind"] == b"keys":
                    found.sets[content["set"]] = Lines(tuple(content["keys"]), content.get("stride", 1))
                else:
                    found.sets[content["set"]].count = content["seen"], content["step"]
                    found.trailing = True
            except (ValueError, KeyError):
                raise ValueError(f"{path}, line {number}: not a line of records: {line[:80]!r}") from None
    found.trailing |= not all(lines.steps for lines in found.sets.values())
    found.sets = {number: lines for number, lines in found.sets.items() if lines.steps}
    return found


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
