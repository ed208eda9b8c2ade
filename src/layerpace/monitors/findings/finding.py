"""What a diagnosis says, and the words that it says it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from layerpace.engine.common.printable import printable
from layerpace.monitors.run import LayerInfo

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something that a recorded training shows.

    Attributes:
        kind: the rule that found it, such as "no_gradient"; docs/diagnose.md lists them.
        severity: "error": the training is broken; "warning": some of it does not work as it should; "note": worth
            knowing, and often intended.
        layers: names, from input to output; empty: the training as a whole.
        steps: first and last step that show it; None: all of them.
        message: one or two sentences of plain language.
        evidence: the figures.
        suggestion: what to try.
    """

    kind: str
    severity: Severity
    layers: tuple[str, ...]
    steps: tuple[int, int] | None
    message: str
    evidence: str
    suggestion: str

    def __post_init__(self) -> None:
        for text in ("message", "evidence", "suggestion"):  # they quote names, which are anybody's
            object.__setattr__(self, text, printable(getattr(self, text)))

    def __str__(self) -> str:
        where = "" if self.steps is None else f" (steps {self.steps[0]} to {self.steps[1]})"
        return f"{self.severity}: {self.message}{where}\n    evidence: {self.evidence}\n    try: {self.suggestion}"


def named(names: Sequence[str], layers: Sequence[LayerInfo], longest: int = 4) -> str:
    """Layers in words: a list of a few, else what they have in common, else how many there are.

    Args:
        names: those meant, of ``layers``.
        layers: all layers.
        longest: names that are listed at most.
    """
    wanted = set(names)
    if len(wanted) <= min(longest, max(1, len(layers) - 1)):
        return _joined([f"`{name}`" for name in names])
    for what, members in _groups(layers):
        if wanted == members:
            return f"{what} ({len(members)})"
    prefix = _prefix(list(names))
    if prefix and wanted == {layer.name for layer in layers if layer.name.startswith(prefix)}:
        return f"all {len(wanted)} layers of `{prefix.rstrip('.')}`"
    few = [f"`{name}`" for name in names[: longest - 1]]
    return _joined([*few, f"{len(names) - len(few)} more"])


def subject(names: Sequence[str], layers: Sequence[LayerInfo]) -> str:
    """The same at the start of a sentence."""
    text = named(names, layers)
    return text[0].upper() + text[1:]


def _groups(layers: Sequence[LayerInfo]) -> list[tuple[str, set[str]]]:
    trained = [layer for layer in layers if layer.trained]
    vectors = {layer.name for layer in trained if len(layer.shape) < 2}
    return [
        ("all layers", {layer.name for layer in layers}),
        ("all trained layers", {layer.name for layer in trained}),
        ("all biases", {name for name in vectors if name.endswith("bias")}),
        ("all vectors (biases and scales)", vectors),
        ("all matrices", {layer.name for layer in trained} - vectors),
    ]


def _prefix(names: Sequence[str]) -> str:
    """The leading parts that all share, with the dot after them."""
    shared = ""
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared += f"{parts[0]}."
    return shared


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def figure(value: float) -> str:
    """A number with two digits."""
    return f"{value:.2g}"


def times(log10: float) -> str:
    """A ratio from its logarithm: "30 times"."""
    size = 10 ** abs(log10)
    return f"{size:.0e} times" if size >= 1e4 else f"{size:.3g} times" if size < 10 else f"{_rounded(size)} times"


def _rounded(size: float) -> int:
    digits = int(math.log10(size)) - 1
    return int(round(size / 10**digits) * 10**digits)


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.0f}%"


def verb(names: Sequence[str], one: str, many: str) -> str:
    """The form of a verb that fits the number of layers."""
    return one if len(names) == 1 else many
