"""The finished runs of a recipe, looked up by the requests that asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LabError
from ..records import CURVE, RunFolder, to_json

if TYPE_CHECKING:
    from ...monitors.history import History


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        result: what DONE holds: status ("done" or "diverged"), test_score, train_score, validation_score, ...
    """

    request: Mapping[str, Any]
    folder: Path
    result: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        return self.result.get("status") == "diverged"

    @cached_property
    def curve(self) -> list[dict[str, Any]]:
        """Evaluations: step, test_score, test_loss, train_loss (None at step 0), validation_score if there is one."""
        return RunFolder(self.folder, {}, make=False).read(CURVE)

    @cached_property
    def history(self) -> History:
        """What the run's monitor recorded of the layers: ``history.series(quantity, layer) -> (steps, values)``."""
        from ...monitors.folder import load

        (run,) = load(self.folder)
        return run.history

    @property
    def layers(self) -> list[str]:
        """Names of the tensors with two or more dimensions, from input to output."""
        return list(self.result["layers"])

    def series(self, quantity: str, layer: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one of `layerpace.monitors.quantities`, such as "cosine_distance"."""
        steps, values = self.history.series(quantity, layer)
        return list(steps), list(values)

    def last(self, quantity: str) -> dict[str, float]:
        """{layer: last recorded value}."""
        return {layer: self.series(quantity, layer)[1][-1] for layer in self.layers}


class Records:
    """What is finished so far.

    ``records[request]`` raises a LabError for a run that failed and a KeyError for one that is not finished.
    """

    def __init__(self) -> None:
        self._found: dict[str, Record | str] = {}

    def add(self, request: Mapping[str, Any], record: Record | str) -> None:
        """A finished run, or why it failed."""
        self._found[key(request)] = record

    def __contains__(self, request: Mapping[str, Any]) -> bool:
        return key(request) in self._found

    def __getitem__(self, request: Mapping[str, Any]) -> Record:
        found = self._found[key(request)]
        if isinstance(found, str):
            raise LabError(f"a run failed: {found}; it was {dict(request)}")
        return found

    def have(self, requests: Iterable[Mapping[str, Any]]) -> bool:
        """Whether all of them are finished."""
        return all(request in self for request in requests)

    def of(self, requests: Sequence[Mapping[str, Any]]) -> list[Record]:
        return [self[request] for request in requests]


def key(request: Mapping[str, Any]) -> str:
    return to_json(dict(sorted(request.items())))
