"""A recorded training: what plots, findings, the report and the terminal view are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .history import History


@dataclass(frozen=True)
class LayerInfo:
    """A layer: by default one tensor, else a segment of one.

    Attributes:
        name: of the parameter, with [k] for a segment.
        shape: of the layer's tensor.
        excluded: the optimizer's layer rule leaves it out.
        trained: it belongs to an optimizer and requires a gradient.
    """

    name: str
    shape: tuple[int, ...]
    excluded: bool = False
    trained: bool = True

    @property
    def entries(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Series:
    """Scalars of a run against its steps.

    Attributes:
        steps: at which there is a value, in order.
        values: as many.
    """

    steps: list[int]
    values: list[float]


@dataclass(frozen=True, repr=False)
class Run:
    """One training.

    Attributes:
        name: short, for legends.
        settings: what it was run with, JSON-like: optimizer, rule, options, model, every, ...
        layers: from input to output; those of ``history``, in its order.
        history: the records.
        scalars: loss, accuracy, ... by name, as the user logged them.
        path: the run's folder; None: it is in memory only.
        finished: nothing will be added.
        notes: what had to be left out of the folder's files, a line each, such as damaged records.
    """

    name: str
    settings: Mapping[str, Any]
    layers: Sequence[LayerInfo]
    history: History
    scalars: Mapping[str, Series] = field(default_factory=dict)
    path: Path | None = None
    finished: bool = False
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        steps = self.history.steps
        records = f"{len(steps)} record{'s' * (len(steps) != 1)} of {len(self.layers)} layers"
        said = [records + (f", steps {steps[0]} to {steps[-1]}" if steps else "")]
        said += [f"scalars {', '.join(map(repr, self.scalars))}"] if self.scalars else []
        said += [] if self.path is None else [f"in {str(self.path)!r}"]
        return f"<Run {self.name!r}: {', '.join(said)}{', finished' if self.finished else ''}>"


def run_of(data: Any) -> Any:
    """The run of a monitor; anything else as it is."""
    run = None if isinstance(data, (Run, History)) else getattr(data, "run", None)
    return run if isinstance(run, Run) else data
